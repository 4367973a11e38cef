#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/tensor_id.h"

/// The tensors of a model with their names and shapes, from its config alone. No Torch.
namespace moe {

/// A logical tensor, as it stands in a native model directory or a checkpoint: name and shape do not depend on the
/// layout of ranks. What a stock architecture stores has no id, and is no TensorSpec (model/stock).
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorId id;
};

/// Every tensor that a model directory of this config holds, in writing order.
std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config);

/// Whether models of these configs hold tensors of the same names and shapes.
bool have_same_tensors(const ModelConfig& a, const ModelConfig& b);

}  // namespace moe
