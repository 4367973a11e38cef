#pragma once

#include <string>

#include "model/stock/stock_layout.h"

namespace moe {

/// `glm4_moe` and `solar_open`: a LLaMA (biases on q, k and v or on none) whose routers take sigmoids of the logits,
/// add a bias for the choice alone, and weigh the chosen by their sigmoids, over their sum or as they are, times one
/// factor for all layers; with an expert that sees every token at weight 1, a whole number of routed ones wide. The
/// first layers of a glm4_moe may be dense; solar_open has experts in every layer. RoPE must turn whole heads, and
/// there is one group of experts.
///
/// Source   Hugging Face `Glm4MoeForCausalLM`, `SolarOpenForCausalLM`.
StockLayout glm4_moe_layout(const std::string& model_type);

/// Width of the expert that sees every token as stored: the least number of routed ones that holds it, one at least.
int64_t glm4_shared_width(int64_t shared_width, int64_t expert_width);

/// How many layers before the first mixture are dense; -1 where others are too.
int64_t first_dense_layers(const MoeConfig& moe);

}  // namespace moe
