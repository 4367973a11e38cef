#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"
#include "convert/layer_inputs.h"
#include "model/attention.h"
#include "model/layer_context.h"
#include "model/model_config.h"

namespace moe {

/// How alike the query heads of a layer are on the calibration text: the cosine, over all tokens, between what two
/// heads add to the stream, sum_t <W_h o_h(t), W_g o_g(t)> over the root of both sums of squares; 0 where a head adds
/// nothing. W_h are the columns of the output projection that belong to head h.
///
/// Shapes   features [T, D] inputs of attention -> [heads, heads], double; the same bits at any number of ranks
/// Throws   InvalidArgument on every rank where an output is NaN or infinite. Collective.
/// Cost     per token heads^2 products of D numbers; memory: a head's output of 256 tokens for each head.
at::Tensor head_agreement(const ModelConfig& config, const AttentionWeights& weights,
                          const CalibrationFeatures& features, const LayerContext& context, int64_t layer,
                          Communicator& world);

}  // namespace moe
