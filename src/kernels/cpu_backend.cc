#include "kernels/backend.h"
#include "kernels/cpu_kernels.h"
#include "kernels/matmul_cpu.h"

namespace moe::kernels {
namespace {

/// A version that is done when it returns, whatever the queue.
template <auto function, typename Args>
void at_once(const Args& args, const Queue& /*queue*/) {
  function(args);
}

}  // namespace

const Backend kCpuBackend{
    .matmul = at_once<matmul_cpu>,
    .permute = at_once<permute_cpu>,
    .unpermute = at_once<unpermute_cpu>,
    .unpermute_gradient = at_once<unpermute_gradient_cpu>,
    .swiglu = at_once<swiglu_cpu>,
    .swiglu_gradient = at_once<swiglu_gradient_cpu>,
    .gelu_new = at_once<gelu_new_cpu>,
    .gelu_new_gradient = at_once<gelu_new_gradient_cpu>,
    .add_bias = at_once<add_bias_cpu>,
    .sum_rows = at_once<sum_rows_cpu>,
    .rope = at_once<rope_cpu>,
    .sum_of_squares = at_once<sum_of_squares_cpu>,
    .rms_norm = at_once<rms_norm_cpu>,
    .rms_norm_gradient = at_once<rms_norm_gradient_cpu>,
    .layer_norm = at_once<layer_norm_cpu>,
    .layer_norm_gradient = at_once<layer_norm_gradient_cpu>,
    .cross_entropy = at_once<cross_entropy_cpu>,
    .cross_entropy_gradient = at_once<cross_entropy_gradient_cpu>,
    .attention = at_once<attention_cpu>,
    .attention_gradient = at_once<attention_gradient_cpu>,
    .grouped_linear_forward = at_once<grouped_linear_forward_cpu>,
    .grouped_linear_input_gradient = at_once<grouped_linear_input_gradient_cpu>,
    .grouped_linear_weight_gradient = at_once<grouped_linear_weight_gradient_cpu>,
    .grouped_add_bias = at_once<grouped_add_bias_cpu>,
    .grouped_sum_rows = at_once<grouped_sum_rows_cpu>,
    .top_k = at_once<top_k_cpu>,
    .sort_slots = at_once<sort_slots_cpu>,
    .sort_sends = at_once<sort_sends_cpu>,
    .device_count = [] { return 1; },
};

}  // namespace moe::kernels
