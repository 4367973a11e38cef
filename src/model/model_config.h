#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/attention_experts_config.h"

namespace moe {

/// What the `moe` object of a native config.json holds (docs/model_directory.md).
struct MoeConfig {
  std::string base_model_type;  ///< family of the dense model, "llama"
  int64_t num_experts = 0;      ///< routed experts of each layer that is a mixture; 0: only attention has experts
  int64_t top_k = 0;
  /// [layers]: neurons of one routed expert, of the widest where they differ; 0: the layer has the dense FFN.
  std::vector<int64_t> expert_widths;
  std::map<int64_t, std::vector<int64_t>> uneven_widths{};  ///< of layers whose experts differ: [num_experts]
  std::vector<int64_t> shared_widths;                       ///< [layers]: neurons of the shared expert, 0 for none
  std::string shared_gate = "none";   ///< what weighs shared experts: "none" | "softmax" | "sigmoid"
  int64_t shared_gate_rows = 1;       ///< softmax: one for each of the shared experts; sigmoid: 1
  double shared_gate_scale = 1;       ///< factor of the gate's weights
  std::vector<double> output_scale;   ///< [layers]: factor of the routed sum; 1 in a dense layer
  std::string score = "softmax";      ///< "softmax" | "sigmoid"
  std::string topk_norm = "renorm";   ///< "renorm" | "straight_through" | "raw" | "unit" | "one_plus"
  bool has_selection_bias = false;    ///< routers add a bias to the scores for the choice (balance of a training)
  std::string router = "linear";      ///< its gate: "linear" | "mlp" | "product"
  std::string router_noise = "none";  ///< of training: "none" | "learned" | "gumbel"
  bool has_output_bias = false;       ///< mixtures have an output bias though the family's FFNs have no biases
  std::optional<AttentionExperts> attention{};  ///< absent: attention is dense
  nlohmann::json conversion =
      nlohmann::json::object();  ///< how it was made: method, seed, router_init, scale_mode, ...

  bool is_mixture(int64_t layer) const { return expert_widths.at(layer) > 0; }
  bool has_shared_gate(int64_t layer) const { return shared_gate != "none" && shared_widths.at(layer) > 0; }
  /// By number, ascending: those that are mixtures, and those that have the dense FFN.
  std::vector<int64_t> mixture_layers() const;
  std::vector<int64_t> dense_layers() const;

  int64_t expert_width(int64_t layer, int64_t expert) const;
  /// [num_experts], of one layer.
  void set_expert_widths(int64_t layer, const std::vector<int64_t>& widths);
  /// As config.json has them: a number per layer, a list where the experts of a layer differ.
  nlohmann::json expert_widths_json() const;
};

enum class NormKind {
  kRms,    ///< weight * x / sqrt(mean(x^2) + eps)
  kLayer,  ///< weight * (x - mean) / sqrt(variance + eps) + bias
};

/// How positions turn queries and keys (model/rope.h). Fields beyond `theta` and `rotary_dims` are read by the types
/// that use them.
struct RopeConfig {
  std::string type = "default";  ///< "default" | "linear" | "dynamic" | "llama3" | "yarn"
  double theta = 10000;
  int64_t rotary_dims = 0;  ///< first elements of a head that turn; even, at most head_dim
  double factor = 1;
  double low_freq_factor = 1;              ///< llama3
  double high_freq_factor = 4;             ///< llama3
  int64_t original_max_positions = 0;      ///< llama3, yarn
  double beta_fast = 32;                   ///< yarn
  double beta_slow = 1;                    ///< yarn
  std::optional<double> attention_factor;  ///< yarn: factor of cos and sin; absent: from factor and the mscales
  double mscale = 0;                       ///< yarn; 0: not given
  double mscale_all_dim = 0;               ///< yarn; 0: not given
  bool truncate = true;                    ///< yarn: the ramp begins and ends at whole pairs
};

/// A decoder's shape, read from a Hugging Face `config.json`. What a family's block looks like stands in properties
/// (norm, biases, is_gated, is_parallel), so that nothing but its reader needs to know the family.
struct ModelConfig {
  std::string model_type;  ///< a name of model/model_families.cc: the dense family, also for a MoE
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  ///< width of the dense FFN
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  NormKind norm = NormKind::kRms;
  double norm_eps = 0;
  RopeConfig rope;
  bool qkv_bias = false;
  bool o_bias = false;    ///< of the attention's output projection
  bool mlp_bias = false;  ///< of every matrix of the FFN; a MoE has one output bias instead of its down biases
  bool head_bias = false;
  bool is_gated = true;                     ///< down(silu(gate x) * up x); otherwise down(gelu_new(up x))
  bool is_parallel = false;                 ///< attention and FFN read the same norm and are added together
  std::optional<int64_t> attention_window;  ///< keys that a query sees, its own included; absent: all before it
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  std::optional<MoeConfig> moe;  ///< absent: dense
  std::string stock_layout;      ///< stock MoE architecture that the directory is stored as; empty for dense and native
  nlohmann::json source;         ///< config.json as read; unknown keys are kept for writing back

  /// Whether the layer's FFN is a mixture of experts: of a MoE all but those that it left dense.
  bool is_mixture(int64_t layer) const { return moe && moe->is_mixture(layer); }
  /// Whether mixtures add a bias to each token's output: in place of the down biases of the family's FFNs, or their
  /// own.
  bool has_output_bias() const { return moe && (mlp_bias || moe->has_output_bias); }
  /// Whether the layer's attention is experts.
  bool has_attention_experts(int64_t layer) const { return moe && moe->attention && moe->attention->is_in(layer); }
};

/// Reads and checks config.json. `where` (its path) starts every message. Throws Corruption for what is not JSON,
/// InvalidArgument that names key and value.
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
