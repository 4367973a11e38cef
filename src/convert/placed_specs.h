#pragma once

#include <cstdint>
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

/// Those of a dense layer beside its FFN: attention and norms.
std::vector<TensorSpec> specs_beside_ffn(const ModelConfig& config, int64_t layer);

}  // namespace moe
