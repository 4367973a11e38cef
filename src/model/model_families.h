#pragma once

#include <functional>

#include "common/registry.h"
#include "model/model_config.h"
#include "model/parameters.h"

namespace moe {

/// What one family of decoders has of its own: defaults of config keys and names of tensors.
struct ModelFamily {
  /// Fills the family's fields of `config` from config.json. `where` starts every message.
  std::function<void(const nlohmann::json& source, const std::string& where, ModelConfig& config)> read_config;
  /// Tensors of a dense model, in writing order.
  std::function<std::vector<TensorSpec>(const ModelConfig& config)> dense_tensors;
};

/// THE list of model families, by `model_type`.
const Registry<ModelFamily>& model_families();

}  // namespace moe
