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

constexpr Backend kCudaBackend{
    .matmul = on_stream<matmul_cuda>,
    .permute = on_stream<permute_cuda>,
    .unpermute = on_stream<unpermute_cuda>,
    .unpermute_gradient = on_stream<unpermute_gradient_cuda>,
    .swiglu = on_stream<swiglu_cuda>,
    .swiglu_gradient = on_stream<swiglu_gradient_cuda>,
    .gelu_new = on_stream<gelu_new_cuda>,
    .gelu_new_gradient = on_stream<gelu_new_gradient_cuda>,
    .add_bias = on_stream<add_bias_cuda>,
    .sum_rows = on_stream<sum_rows_cuda>,
    .rope = on_stream<rope_cuda>,
    .sum_of_squares = on_stream<sum_of_squares_cuda>,
    .rms_norm = on_stream<rms_norm_cuda>,
    .rms_norm_gradient = on_stream<rms_norm_gradient_cuda>,
    .layer_norm = on_stream<layer_norm_cuda>,
    .layer_norm_gradient = on_stream<layer_norm_gradient_cuda>,
    .cross_entropy = on_stream<cross_entropy_cuda>,
    .cross_entropy_gradient = on_stream<cross_entropy_gradient_cuda>,
    .attention = on_stream<attention_cuda>,
    .attention_gradient = on_stream<attention_gradient_cuda>,
    .grouped_linear_forward = on_stream<grouped_linear_forward_cuda>,
    .grouped_linear_input_gradient = on_stream<grouped_linear_input_gradient_cuda>,
    .grouped_linear_weight_gradient = on_stream<grouped_linear_weight_gradient_cuda>,
    .grouped_add_bias = on_stream<grouped_add_bias_cuda>,
    .grouped_sum_rows = on_stream<grouped_sum_rows_cuda>,
    .top_k = on_stream<top_k_cuda>,
    .sort_slots = on_stream<sort_slots_cuda>,
    .sort_sends = on_stream<sort_sends_cuda>,
    .device_count = device_count,
};

}  // namespace
}  // namespace moe::kernels

extern "C" const moe::kernels::Backend* moe_cuda_backend() {
  return &moe::kernels::kCudaBackend;
}
