#pragma once

#include "kernels/backend.h"

/// The implementations of the CPU but for matmul (matmul_cpu.h). All are done on return.
namespace moe::kernels {

void permute_cpu(const PermuteArgs& args);
void unpermute_cpu(const UnpermuteArgs& args);
void unpermute_gradient_cpu(const UnpermuteGradientArgs& args);
void swiglu_cpu(const SwigluArgs& args);
void swiglu_gradient_cpu(const SwigluGradientArgs& args);
void gelu_new_cpu(const GeluNewArgs& args);
void gelu_new_gradient_cpu(const GeluNewGradientArgs& args);
void add_bias_cpu(const AddBiasArgs& args);
void sum_rows_cpu(const SumRowsArgs& args);
void rope_cpu(const RopeArgs& args);
void sum_of_squares_cpu(const SumOfSquaresArgs& args);
void rms_norm_cpu(const RmsNormArgs& args);
void rms_norm_gradient_cpu(const RmsNormGradientArgs& args);
void layer_norm_cpu(const LayerNormArgs& args);
void layer_norm_gradient_cpu(const LayerNormGradientArgs& args);
void cross_entropy_cpu(const CrossEntropyArgs& args);
void cross_entropy_gradient_cpu(const CrossEntropyGradientArgs& args);
void attention_cpu(const AttentionArgs& args);
void attention_gradient_cpu(const AttentionGradientArgs& args);
void grouped_linear_forward_cpu(const GroupedLinearArgs& args);
void grouped_linear_input_gradient_cpu(const GroupedLinearArgs& args);
void grouped_linear_weight_gradient_cpu(const GroupedLinearArgs& args);
void grouped_add_bias_cpu(const GroupedAddBiasArgs& args);
void grouped_sum_rows_cpu(const GroupedSumRowsArgs& args);
void top_k_cpu(const TopKArgs& args);
void sort_slots_cpu(const SlotSort& sort);
void sort_sends_cpu(const SendSort& sort);

}  // namespace moe::kernels
