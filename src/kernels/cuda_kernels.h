#pragma once

#include <cuda_runtime_api.h>

#include "kernels/backend.h"

/// The implementations of libmoe_cuda. All enqueue on `stream` and return.
namespace moe::kernels {

void matmul_cuda(const Product& product, cudaStream_t stream);
void permute_cuda(const PermuteArgs& args, cudaStream_t stream);
void unpermute_cuda(const UnpermuteArgs& args, cudaStream_t stream);
void unpermute_gradient_cuda(const UnpermuteGradientArgs& args, cudaStream_t stream);
void swiglu_cuda(const SwigluArgs& args, cudaStream_t stream);
void swiglu_gradient_cuda(const SwigluGradientArgs& args, cudaStream_t stream);
void gelu_new_cuda(const GeluNewArgs& args, cudaStream_t stream);
void gelu_new_gradient_cuda(const GeluNewGradientArgs& args, cudaStream_t stream);
void add_bias_cuda(const AddBiasArgs& args, cudaStream_t stream);
void sum_rows_cuda(const SumRowsArgs& args, cudaStream_t stream);
void rope_cuda(const RopeArgs& args, cudaStream_t stream);
void sum_of_squares_cuda(const SumOfSquaresArgs& args, cudaStream_t stream);
void rms_norm_cuda(const RmsNormArgs& args, cudaStream_t stream);
void rms_norm_gradient_cuda(const RmsNormGradientArgs& args, cudaStream_t stream);
void layer_norm_cuda(const LayerNormArgs& args, cudaStream_t stream);
void layer_norm_gradient_cuda(const LayerNormGradientArgs& args, cudaStream_t stream);
void cross_entropy_cuda(const CrossEntropyArgs& args, cudaStream_t stream);
void cross_entropy_gradient_cuda(const CrossEntropyGradientArgs& args, cudaStream_t stream);
void attention_cuda(const AttentionArgs& args, cudaStream_t stream);
void attention_gradient_cuda(const AttentionGradientArgs& args, cudaStream_t stream);
void grouped_linear_forward_cuda(const GroupedLinearArgs& args, cudaStream_t stream);
void grouped_linear_input_gradient_cuda(const GroupedLinearArgs& args, cudaStream_t stream);
void grouped_linear_weight_gradient_cuda(const GroupedLinearArgs& args, cudaStream_t stream);
void grouped_add_bias_cuda(const GroupedAddBiasArgs& args, cudaStream_t stream);
void grouped_sum_rows_cuda(const GroupedSumRowsArgs& args, cudaStream_t stream);
void top_k_cuda(const TopKArgs& args, cudaStream_t stream);
void sort_slots_cuda(const SlotSort& sort, cudaStream_t stream);
void sort_sends_cuda(const SendSort& sort, cudaStream_t stream);

}  // namespace moe::kernels
