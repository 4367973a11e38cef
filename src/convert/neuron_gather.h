#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "checkpoint/index_gather.h"
#include "convert/conversion_method.h"
#include "model/feed_forward.h"
#include "model/moe/moe_layer.h"

/// Copies the neurons of experts out of a dense FFN's matrices, of any weight type, bits unchanged. Called by the
/// converter.
namespace moe {

/// Columns of a matrix [D, N] for every expert in one pass: outs[e] [D, n_e] takes the columns split.experts[e].
void gather_columns(const at::Tensor& matrix_DN, const Split& split, std::vector<at::Tensor>& outs);

/// The experts of a split as the model's MoE layer takes them, in fp32 like the FFN, without a router; the FFN's down
/// bias becomes the layer's output bias.
MoeWeights stack_experts(const FeedForwardWeights& ffn, const Split& split);

}  // namespace moe
