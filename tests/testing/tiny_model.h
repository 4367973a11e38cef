#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "model/model_config.h"

namespace moe::testing {

/// config.json of a model of a few thousand parameters: hidden 32, FFN 48, 2 layers, 4 heads of 8, 2 KV heads (phi: 4),
/// vocabulary 61, untied. Kinds: "llama", "llama_biases" (of attention and FFN), "qwen2", "phi".
nlohmann::json tiny_json(const std::string& kind = "llama");
/// All of them.
inline constexpr const char* kTinyKinds[] = {"llama", "llama_biases", "qwen2", "phi"};
ModelConfig tiny_config(const std::string& kind = "llama");

/// The tiny config as a mixture: experts of `expert_width` neurons in every layer, shared ones of `shared_width`.
ModelConfig tiny_moe_config(int64_t num_experts, int64_t top_k, int64_t expert_width, int64_t shared_width = 0,
                            const std::string& kind = "llama");

/// The mixture with the FFN of one layer left dense.
ModelConfig with_dense_layer(ModelConfig config, int64_t layer);

/// The mixture with a learned gate on its shared experts.
ModelConfig with_shared_gate(ModelConfig config, const std::string& gate, int64_t rows, double scale);

/// The model with attention of this shape in every layer as contiguous experts, whether its FFNs are mixtures or not.
ModelConfig with_attention_experts(ModelConfig config, int64_t num_experts, int64_t top_k, int64_t always_on = 0);

/// Fills every logical tensor with numbers that depend on `seed` and its name alone, so that each layout of ranks holds
/// the same model: matrices normal with variance 1 / columns, norms around 1, biases around 0.
void fill_random(Decoder& decoder, uint64_t seed);

/// A decoder with all experts, filled so.
Decoder random_decoder(const ModelConfig& config, at::ScalarType dtype, uint64_t seed = 7);

/// Asks the gradients of all weights.
void require_all_gradients(Decoder& decoder);

/// Sequences of these lengths with random tokens.
TokenBatch random_batch(const std::vector<int64_t>& lengths, int64_t vocab_size, uint64_t seed);

}  // namespace moe::testing
