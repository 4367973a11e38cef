#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/tensor_assembly.h"
#include "convert/head_groups.h"
#include "convert/planned_layer.h"
#include "model/model_config.h"
#include "model/tensor_id.h"

namespace moe {

/// A layer's groups of heads as the tensors of experts that follow from them: rows of q, k and v, columns of the output
/// projection, each a PiecedTensor. Holds no tensors of the model.
class PlannedAttention {
 public:
  /// `config`: of the dense model. Throws Internal where the groups do not take every query head once.
  PlannedAttention(HeadGroups groups, const ModelConfig& config, int64_t layer);

  const HeadGroups& groups() const { return groups_; }
  int64_t experts() const { return static_cast<int64_t>(groups_.query.size()); }

  /// Whether this tensor of the output is made of a part of one of the dense layer, by its name there.
  bool makes(const std::string& name) const { return tensors_.contains(name); }
  at::Tensor tensor(const std::string& name, at::ScalarType type, const PlannedLayer::Models& models) const;

  /// The experts as they lie in memory, in float: `id` is that of a stack (kStack), or of the output bias.
  at::Tensor parameter(const TensorId& id, const PlannedLayer::Models& models) const;

  /// What conversion.safetensors holds of the layer: int32 [experts, heads of an expert].
  at::Tensor query_heads() const;
  at::Tensor kv_heads() const;

 private:
  void add(const TensorId& id, const std::vector<int32_t>& heads);
  at::Tensor expert_tensor(const TensorId& id, const PlannedLayer::Models& models) const;

  HeadGroups groups_;
  ModelConfig config_;
  int64_t layer_;
  std::map<std::string, PiecedTensor> tensors_;
};

}  // namespace moe
