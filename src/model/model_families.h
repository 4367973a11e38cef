#pragma once

#include <functional>
#include <string>

#include "common/registry.h"
#include "model/model_config.h"

namespace moe {

/// What a family calls its tensors, where families differ; `.weight` and `.bias` follow. The others are called alike
/// everywhere (model/tensor_id.cc, which makes all names). Parts of a layer stand below "model.layers.L.".
struct TensorNames {
  std::string final_norm = "model.norm";
  std::string attention_out = "self_attn.o_proj";
  std::string gate = "mlp.gate_proj";  ///< of a gated FFN
  std::string up = "mlp.up_proj";
  std::string down = "mlp.down_proj";
};

/// What one family of decoders has of its own: how its config.json reads, and names of tensors.
struct ModelFamily {
  /// Fills the fields of `config` from config.json. `where` starts every message.
  std::function<void(const nlohmann::json& source, const std::string& where, ModelConfig& config)> read_config;
  TensorNames names;
  std::string architecture;  ///< class name that config.json's `architectures` holds for a dense model
};

/// THE list of model families, by `model_type`.
const Registry<ModelFamily>& model_families();

}  // namespace moe
