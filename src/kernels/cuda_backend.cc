// The one function that libmoe_cuda exports to cuda_library.cc.
#include "kernels/backend.h"
#include "kernels/cuda_check.h"
#include "kernels/cuda_kernels.h"

namespace moe::kernels {
namespace {

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    return 0;
  }
  MOE_CUDA_CHECK(status);
  return count;
}

/// A version that takes the queue as what it is here, a stream.
template <auto function, typename Args>
void on_stream(const Args& args, const Queue& queue) {
  function(args, static_cast<cudaStream_t>(queue.stream));
}

/// An op that is not here has no CUDA version yet: run() says so.
constexpr Backend kCudaBackend{
    .matmul = on_stream<matmul_cuda>,
    .permute = on_stream<permute_cuda>,
    .unpermute = on_stream<unpermute_cuda>,
    .unpermute_gradient = on_stream<unpermute_gradient_cuda>,
    .device_count = device_count,
};

}  // namespace
}  // namespace moe::kernels

extern "C" const moe::kernels::Backend* moe_cuda_backend() {
  return &moe::kernels::kCudaBackend;
}
