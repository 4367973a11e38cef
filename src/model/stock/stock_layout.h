#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/tensor_piece.h"

/// How a MoE architecture that stock clients know (transformers, vLLM, llama.cpp) stores a model: its config.json, the
/// tensors that stand in its files, and where each of our logical tensors lies in them. One description serves reading
/// (ModelDirectory) and writing (src/export): the pieces of a stored tensor are whole logical ones. No Torch. E
/// experts, I width of an expert, S of the shared expert, D hidden.
namespace moe {

/// What a stock config has once for the whole model.
struct StockForm {
  int64_t expert_width = 0;  ///< I as stored: narrower experts are filled with zeros
  int64_t shared_width = 0;  ///< S as stored; 0: no shared expert stands there
  bool is_tied = false;      ///< lm_head.weight is not stored
  bool qkv_bias = true;      ///< qwen2_moe: q, k and v have biases, zeros where the model has none
  double router_factor = 1;  ///< granitemoeshared: of router weights
  double routed_factor = 1;  ///< granitemoeshared: of routed down projections, beside the layer's output scale
};

struct StockLayout {
  std::string architecture;
  /// Fills a model that is stored so: the dense fields as its base family has them, `moe`, and a `source` without the
  /// architecture's own keys. Throws InvalidArgument for what we cannot hold.
  std::function<void(const nlohmann::json& source, const std::string& where, ModelConfig& config)> read_config;
  /// config.json for stock clients, all keys that transformers 4.5x and 5 need. Absent of layouts that are read only.
  std::function<nlohmann::json(const ModelConfig& config, const StockForm& form)> write_config;
  /// All tensors in writing order. `config` may have narrower experts than the form, and output scales (folded into the
  /// factor of the routed down projections).
  std::function<std::vector<PiecedTensor>(const ModelConfig& config, const StockForm& form)> tensors;
};

}  // namespace moe
