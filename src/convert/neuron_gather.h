#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "convert/conversion_method.h"
#include "model/feed_forward.h"
#include "model/moe/moe_layer.h"

/// Copies the neurons of experts out of a dense FFN's matrices, of any weight type, bits unchanged. Called by the
/// converter; on one thread, as fast as memory gives: LibTorch's index_select of columns takes a pass over the matrix
/// per expert.
namespace moe {

/// Rows `neurons` of a matrix [N, D], into `out` [n, D] of the same type; both contiguous. A vector [N] is a matrix of
/// one column.
void gather_rows(const at::Tensor& matrix_ND, const std::vector<int32_t>& neurons, at::Tensor& out_nD);

/// Columns of a matrix [D, N] for every expert in one pass: outs[e] [D, n_e] takes the columns split.experts[e].
void gather_columns(const at::Tensor& matrix_DN, const Split& split, std::vector<at::Tensor>& outs);

/// The experts of a split as the model's MoE layer takes them, in fp32 like the FFN, without a router; the FFN's down
/// bias becomes the layer's output bias.
MoeWeights stack_experts(const FeedForwardWeights& ffn, const Split& split);

}  // namespace moe
