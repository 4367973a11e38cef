#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moe {

class JsonFields;
struct ModelConfig;

/// What `moe.attention` of a native config.json holds (docs/model_directory.md): query heads of a layer's attention
/// stand together as experts, each with its own q, k, v and o. The first `always_on` see every token with weight 1; a
/// token chooses `top_k` of the others, and only the router's rows of those exist. No Torch.
///
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), section 2.
struct AttentionExperts {
  int64_t num_experts = 0;  ///< those that are always on included
  int64_t top_k = 0;
  int64_t always_on = 0;
  int64_t query_heads = 0;           ///< of one expert
  int64_t kv_heads = 0;              ///< of one expert: divides query_heads
  std::vector<int64_t> layers;       ///< [layers]: 1 where attention is experts, 0 where it is dense
  std::vector<double> output_scale;  ///< [layers]: factor of what the chosen give; 1 in a dense layer
  std::string score = "softmax";     ///< as MoeConfig
  std::string topk_norm = "renorm";  ///< as MoeConfig
  std::string kv_mode = "routed";    ///< "routed": a token is seen in the experts that it chose | "dense": in all
  bool has_selection_bias = false;   ///< as MoeConfig

  /// Experts that a token may choose.
  int64_t num_routed() const { return num_experts - always_on; }
  bool is_in(int64_t layer) const { return layers.at(layer) != 0; }
  /// By number, ascending.
  std::vector<int64_t> expert_layers() const;
};

/// Reads and checks the object. `config` is that of the model so far. Throws InvalidArgument that names key and value.
AttentionExperts read_attention_experts(const JsonFields& fields, const ModelConfig& config);

/// The object.
nlohmann::json to_json(const AttentionExperts& attention);

}  // namespace moe
