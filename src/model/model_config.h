#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moe {

/// What the `moe` object of a native config.json holds (docs/model_directory.md).
struct MoeConfig {
  std::string base_model_type;            ///< family of the dense model, "llama"
  int64_t num_experts = 0;                ///< routed experts of each layer
  int64_t top_k = 0;
  std::vector<int64_t> expert_widths;     ///< [layers]: neurons of one routed expert
  std::vector<int64_t> shared_widths;     ///< [layers]: neurons of the shared expert, 0 for none
  std::vector<double> output_scale;       ///< [layers]: factor of the routed sum
  std::string score = "softmax";
  std::string topk_norm = "renorm";       ///< "renorm" | "straight_through"
  std::string router = "linear";
  nlohmann::json conversion = nlohmann::json::object();  ///< how it was made: method, seed, router_init, scale_mode, ...
};

/// A decoder's shape, read from a Hugging Face `config.json`.
struct ModelConfig {
  std::string model_type;                 ///< a name of model/model_families.cc: the dense family, also for a MoE
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;          ///< width of the dense FFN
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  double rms_norm_eps = 0;
  double rope_theta = 0;
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  std::optional<MoeConfig> moe;           ///< absent: dense
  nlohmann::json source;                  ///< config.json as read; unknown keys are kept for writing back
};

/// Reads and checks config.json. `where` (its path) starts every message. Throws InvalidArgument that names key and value.
ModelConfig parse_model_config(const std::string& text, const std::string& where);

/// The config.json of this model: `source` with, for a MoE, model_type dense2moe and the `moe` object.
nlohmann::json to_json(const ModelConfig& config);

/// Parameters in all, and those that one token uses (experts counted top_k times; embedding table counted).
struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

}  // namespace moe
