#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"

/// The names and shapes of a model's tensors, from its config alone. No Torch.
namespace moe {

/// A tensor as it stands in a model directory or a checkpoint: name and shape do not depend on the layout of ranks.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};

/// Every tensor that a model directory of this config holds, in writing order.
std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config);

}  // namespace moe
