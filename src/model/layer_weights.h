#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/layer.h"
#include "model/model_config.h"
#include "model/parameters.h"
#include "model/tensor_id.h"

/// Which tensors a layer is made of. Called by the decoder, with its parameters, and by what walks through a model
/// directory layer by layer.
namespace moe {

/// Gives a tensor by its id; called only for tensors that the config has.
using TensorSource = std::function<at::Tensor(const TensorId& id)>;

/// The layer of a model of this config. Undefined where the config has none. The experts of a mixture are asked for as
/// the stacks that lie in memory (kStack).
Layer layer_weights(const ModelConfig& config, int64_t index, const TensorSource& get);

/// The attention of a layer whose attention is experts. These are asked for as stacks too.
MoeAttention attention_expert_weights(const ModelConfig& config, int64_t index, const TensorSource& get);
/// The FFN of one of its layers that is a mixture; asks for no other tensors.
MoeFeedForward moe_feed_forward(const ModelConfig& config, int64_t layer, const TensorSource& get);
/// The same of the layer's parameters (model/parameters.h).
MoeFeedForward mixture_of(const ModelConfig& config, int64_t layer, const std::vector<Parameter>& parameters);

/// The norm after the last layer.
NormWeights final_norm_weights(const ModelConfig& config, const TensorSource& get);

}  // namespace moe
