#include "testing/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/rng.h"
#include "model/model_families.h"

namespace moe::testing {
namespace {

/// FNV-1a: the name's own stream of random numbers.
uint32_t hash(const std::string& name) {
  uint32_t value = 2166136261u;
  for (const char c : name) value = (value ^ static_cast<unsigned char>(c)) * 16777619u;
  return value;
}

at::Tensor normal(const at::Tensor& like, double mean, double deviation, CounterRng rng) {
  at::Tensor values = at::empty(like.sizes(), at::kDouble);
  double* const data = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i) data[i] = mean + deviation * rng.normal();
  return values;
}

}  // namespace

nlohmann::json tiny_json(const std::string& kind) {
  const bool has_biases = kind == "llama_biases";
  const std::string family = has_biases ? "llama" : kind;
  nlohmann::json json = {{"model_type", family},
                         {"hidden_size", 32},
                         {"intermediate_size", 48},
                         {"num_hidden_layers", 2},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"vocab_size", 61},
                         {"max_position_embeddings", 64},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 10000.0},
                         {"tie_word_embeddings", false},
                         {"bos_token_id", 1},
                         {"eos_token_id", 2}};
  json["architectures"] = {model_families().at(family).architecture};
  if (has_biases) json.update({{"attention_bias", true}, {"mlp_bias", true}});
  if (family == "phi") {
    json.erase("rms_norm_eps");
    json.update({{"layer_norm_eps", 1e-5},
                 {"hidden_act", "gelu_new"},
                 {"partial_rotary_factor", 0.5},
                 {"num_key_value_heads", nullptr}});
  }
  return json;
}

ModelConfig tiny_config(const std::string& kind) {
  return parse_model_config(tiny_json(kind).dump(), "tiny " + kind);
}

ModelConfig tiny_moe_config(int64_t num_experts, int64_t top_k, int64_t expert_width, int64_t shared_width,
                            const std::string& kind) {
  ModelConfig config = tiny_config(kind);
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.num_experts = num_experts;
  moe.top_k = top_k;
  moe.expert_widths.assign(config.num_layers, expert_width);
  moe.shared_widths.assign(config.num_layers, shared_width);
  moe.output_scale.assign(config.num_layers, 1.0);
  moe.topk_norm = top_k == 1 ? "straight_through" : "renorm";
  config.moe = moe;
  return config;
}

ModelConfig with_dense_layer(ModelConfig config, int64_t layer) {
  config.moe->expert_widths.at(layer) = 0;
  config.moe->shared_widths.at(layer) = 0;
  return config;
}

ModelConfig with_shared_gate(ModelConfig config, const std::string& gate, int64_t rows, double scale) {
  config.moe->shared_gate = gate;
  config.moe->shared_gate_rows = rows;
  config.moe->shared_gate_scale = scale;
  return config;
}

ModelConfig with_attention_experts(ModelConfig config, int64_t num_experts, int64_t top_k, int64_t always_on) {
  if (!config.moe) {
    config.moe = MoeConfig();
    config.moe->base_model_type = config.model_type;
    config.moe->expert_widths.assign(config.num_layers, 0);
    config.moe->shared_widths.assign(config.num_layers, 0);
    config.moe->output_scale.assign(config.num_layers, 1.0);
  }
  AttentionExperts attention;
  attention.num_experts = num_experts;
  attention.top_k = top_k;
  attention.always_on = always_on;
  attention.query_heads = config.num_heads / num_experts;
  attention.kv_heads = std::max<int64_t>(1, config.num_kv_heads / num_experts);
  attention.layers.assign(config.num_layers, 1);
  attention.output_scale.assign(config.num_layers, 1.0);
  config.moe->attention = attention;
  return config;
}

void fill_random(Decoder& decoder, uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (const Parameter& parameter : decoder.parameters()) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
      const bool is_matrix = logical.view.dim() > 1;
      const double mean = is_matrix || logical.name.ends_with("bias") ? 0 : 1;
      const double deviation = is_matrix ? 1 / std::sqrt(static_cast<double>(logical.view.size(1))) : 0.1;
      logical.view.copy_(normal(logical.view, mean, deviation, CounterRng(seed, kStreamTest, hash(logical.name))));
    }
  }
}

Decoder random_decoder(const ModelConfig& config, at::ScalarType dtype, uint64_t seed) {
  Decoder decoder(config, dtype, all_experts(config));
  fill_random(decoder, seed);
  return decoder;
}

void require_all_gradients(Decoder& decoder) {
  for (Parameter& parameter : decoder.parameters()) parameter.value.set_requires_grad(true);
}

TokenBatch random_batch(const std::vector<int64_t>& lengths, int64_t vocab_size, uint64_t seed) {
  CounterRng rng(seed, kStreamTest, 1);
  std::vector<int64_t> tokens, cu_seqlens{0};
  for (const int64_t length : lengths) {
    for (int64_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocab_size))));
    cu_seqlens.push_back(cu_seqlens.back() + length);
  }
  return {at::tensor(tokens, at::kLong), std::move(cu_seqlens)};
}

}  // namespace moe::testing
