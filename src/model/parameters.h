#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/moe/token_dispatcher.h"

namespace moe {

/// A tensor as it stands in a model directory or a checkpoint: name and shape do not depend on the layout of ranks.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};

/// Every tensor that a model directory of this config holds, in writing order.
std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config);

/// A trained tensor as it lies in memory: a dense weight under its own name, or the stacked experts of a layer
/// (`...mlp.experts.gate_up_proj` [E, 2I, D] with the gate's rows first, `...mlp.experts.down_proj` [E, D, I]).
struct Parameter {
  std::string name;
  at::Tensor value;               ///< leaf; requires grad while training
  bool is_expert = false;         ///< owned by part of the ranks: its gradient sums over the replicas of its experts
  bool decays = false;            ///< weight decay applies (matrices; not norms)
  int64_t layer = -1;             ///< -1 for embedding, final norm, head
  ExpertRange experts{};          ///< global ids along dim 0, if is_expert
  int64_t expert_width = 0;       ///< I without padding, if is_expert
};

/// A logical tensor and where it lies inside a parameter (or inside a tensor of the same shape, such as a moment).
struct LogicalView {
  std::string name;
  at::Tensor view;
};

/// The logical tensors that `storage`, laid out as `parameter.value`, holds: itself, or gate_proj, up_proj and down_proj of
/// each owned expert under its global id.
std::vector<LogicalView> logical_views(const Parameter& parameter, const at::Tensor& storage);

}  // namespace moe
