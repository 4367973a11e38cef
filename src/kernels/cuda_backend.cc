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

cudaStream_t as_stream(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

constexpr Backend kCudaBackend{
    .matmul = [](const Product& product, void* stream) { matmul_cuda(product, as_stream(stream)); },
    .permute = [](const PermuteArgs& args, void* stream) { permute_cuda(args, as_stream(stream)); },
    .unpermute = [](const UnpermuteArgs& args, void* stream) { unpermute_cuda(args, as_stream(stream)); },
    .unpermute_gradient = [](const UnpermuteGradientArgs& args,
                             void* stream) { unpermute_gradient_cuda(args, as_stream(stream)); },
    .device_count = device_count,
};

}  // namespace
}  // namespace moe::kernels

extern "C" const moe::kernels::Backend* moe_cuda_backend() {
  return &moe::kernels::kCudaBackend;
}
