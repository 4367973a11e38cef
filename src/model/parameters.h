#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/owned_experts.h"
#include "model/tensor_specs.h"

namespace moe {

/// Where a logical tensor lies in a stack: entries [first, first + count) of dimension `dim` of the expert at `index`.
struct StackedTensor {
  std::string name;
  int64_t index = 0;
  int64_t dim = 0;
  int64_t first = 0;
  int64_t count = 0;
};

/// A trained tensor as it lies in memory: a dense weight under its own name, or the stacked experts of a layer.
///
/// Stacks   `...mlp.experts.gate_up_proj` [E, 2I, D] with the gate's rows first, or `...up_proj` [E, I, D] where the
///          FFN has no gate, and `...mlp.experts.down_proj` [E, D, I]; where the FFN has biases, also
///          `...gate_up_proj_bias` [E, 2I], or `...up_proj_bias` [E, I]. Of attention's experts
///          `...self_attn.experts.qkv_proj` [E, (query heads + 2 kv heads) head_dim, D], with `..._bias` of its rows
///          where q, k and v have biases, and `...o_proj` [E, D, query heads * head_dim].
struct Parameter {
  std::string name;
  at::Tensor value;        ///< leaf; requires grad while training
  bool is_expert = false;  ///< owned by part of the ranks: its gradient sums over the replicas of its experts
  bool decays = false;     ///< weight decay applies (matrices; not norms, not biases)
  TensorId id;
  ExpertRange experts{};                 ///< global ids along dim 0, if is_expert
  std::vector<StackedTensor> stacked{};  ///< the logical tensors within, if is_expert
};

/// The parameters of a model that owns `experts` of each layer, in the order of the logical tensors; of the options'
/// type, on their device. Of kBFloat16, what routes is in float all the same: a step of a router's rows, of its gain or
/// of a selection bias is small beside what bfloat16 tells apart. Contents undefined, but zero in stacked experts.
std::vector<Parameter> allocate_parameters(const ModelConfig& config, const at::TensorOptions& options,
                                           const OwnedExperts& experts);

/// Those of one layer alone, for what runs a model layer by layer.
std::vector<Parameter> allocate_layer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options,
                                      const OwnedExperts& experts);

/// A logical tensor and where it lies inside a parameter (or inside a tensor of the same shape, such as a moment).
struct LogicalView {
  std::string name;
  at::Tensor view;
};

/// The logical tensors that `storage`, laid out as `parameter.value`, holds: itself, or the part of each owned expert
/// under its global id.
std::vector<LogicalView> logical_views(const Parameter& parameter, const at::Tensor& storage);

}  // namespace moe
