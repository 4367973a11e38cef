#pragma once

#include <vector>

#include "model/model_config.h"
#include "model/parameters.h"

namespace moe {

/// The tensors of a model directory in writing order, by where they stand: what the converter walks, built once.
struct PlacedSpecs {
  std::vector<TensorSpec> before_layers, after_layers;
  std::vector<std::vector<TensorSpec>> layers;
};

PlacedSpecs placed_specs(const ModelConfig& config);

}  // namespace moe
