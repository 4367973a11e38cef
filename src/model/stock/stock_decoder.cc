#include "model/stock/stock_decoder.h"

#include "common/error.h"
#include "model/config_fields.h"
#include "model/model_families.h"

namespace moe {
namespace {

using nlohmann::json;

json rope_scaling(const RopeConfig& rope) {
  if (rope.type == "default") return nullptr;
  json scaling = {{"rope_type", rope.type}, {"factor", rope.factor}};
  if (rope.original_max_positions > 0) scaling["original_max_position_embeddings"] = rope.original_max_positions;
  if (rope.type == "llama3") {
    scaling["low_freq_factor"] = rope.low_freq_factor;
    scaling["high_freq_factor"] = rope.high_freq_factor;
  } else if (rope.type == "yarn") {
    scaling["beta_fast"] = rope.beta_fast;
    scaling["beta_slow"] = rope.beta_slow;
    scaling["truncate"] = rope.truncate;
    if (rope.attention_factor) scaling["attention_factor"] = *rope.attention_factor;
    if (rope.mscale != 0) scaling["mscale"] = rope.mscale;
    if (rope.mscale_all_dim != 0) scaling["mscale_all_dim"] = rope.mscale_all_dim;
  }
  return scaling;
}

/// In the names of LLaMA-MoE v2, the one program beside ours that has such attention; `prefix` is "model.layers.L.".
void add_attention_experts(const ModelConfig& config, const std::string& prefix, std::vector<PiecedTensor>& tensors) {
  const AttentionExperts& attention = *config.moe->attention;
  const std::string stock = prefix + "self_attn.", native = stock + "experts.";
  const int64_t q_rows = attention.query_heads * config.head_dim, kv_rows = attention.kv_heads * config.head_dim;
  tensors.push_back({stock + "gate.weight", {attention.num_experts, config.hidden_size}, {{stock + "router.weight"}}});
  for (int64_t expert = 0; expert < attention.num_experts; ++expert) {
    const auto add = [&](const char* name, int64_t rows, int64_t columns) {
      tensors.push_back({concat(stock, name, ".", expert, ".weight"),
                         {rows, columns},
                         {{concat(native, expert, ".", name, ".weight")}}});
    };
    add("q_proj", q_rows, config.hidden_size);
    add("k_proj", kv_rows, config.hidden_size);
    add("v_proj", kv_rows, config.hidden_size);
    add("o_proj", config.hidden_size, q_rows);
  }
}

}  // namespace

std::vector<PiecedTensor> stock_decoder_tensors(const ModelConfig& config, const StockForm& form, StockBiases biases,
                                                const AddMixture& add_mixture) {
  std::vector<PiecedTensor> tensors;
  const auto add_same = [&tensors](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back({name, std::move(shape), {{name}}});
  };
  add_same("model.embed_tokens.weight", {config.vocab_size, config.hidden_size});
  const int64_t q_rows = config.num_heads * config.head_dim, kv_rows = config.num_kv_heads * config.head_dim;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = concat("model.layers.", layer, ".");
    const auto add_linear = [&](const char* name, int64_t rows, int64_t columns, bool stores_bias, bool has_bias) {
      const std::string full = prefix + "self_attn." + name;
      add_same(full + ".weight", {rows, columns});
      if (!stores_bias) return;
      tensors.push_back({full + ".bias", {rows}, {}});
      if (has_bias) tensors.back().pieces.push_back({full + ".bias"});
    };
    add_same(prefix + "input_layernorm.weight", {config.hidden_size});
    if (config.has_attention_experts(layer)) {
      add_attention_experts(config, prefix, tensors);
    } else {
      add_linear("q_proj", q_rows, config.hidden_size, biases.qkv, config.qkv_bias);
      add_linear("k_proj", kv_rows, config.hidden_size, biases.qkv, config.qkv_bias);
      add_linear("v_proj", kv_rows, config.hidden_size, biases.qkv, config.qkv_bias);
      add_linear("o_proj", config.hidden_size, q_rows, biases.o, config.o_bias);
    }
    add_same(prefix + "post_attention_layernorm.weight", {config.hidden_size});
    add_mixture(layer, prefix, tensors);
  }
  add_same("model.norm.weight", {config.hidden_size});
  if (!form.is_tied) {
    // A tied head that is written out is the embedding once more.
    const char* const native = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    tensors.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}, {{native}}});
  }
  return tensors;
}

json stock_decoder_config(const ModelConfig& config, const StockForm& form, const std::string& model_type,
                          const std::string& architecture) {
  json written = {{"architectures", {architecture}},
                  {"attention_dropout", 0.0},
                  {"hidden_act", "silu"},
                  {"hidden_size", config.hidden_size},
                  {"initializer_range", 0.02},
                  {"max_position_embeddings", config.max_positions},
                  {"model_type", model_type},
                  {"num_attention_heads", config.num_heads},
                  {"num_hidden_layers", config.num_layers},
                  {"num_key_value_heads", config.num_kv_heads},
                  {"output_router_logits", false},
                  {"rms_norm_eps", config.norm_eps},
                  {"rope_scaling", rope_scaling(config.rope)},
                  {"rope_theta", config.rope.theta},
                  {"router_aux_loss_coef", 0.0},
                  {"tie_word_embeddings", form.is_tied},
                  {"torch_dtype", "float32"},  // the writer puts the type of the tensors here
                  {"use_cache", true},
                  {"vocab_size", config.vocab_size}};
  // Absent would mean the architecture's own numbers.
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    written[key] = config.source.contains(key) ? config.source[key] : json(nullptr);
  }
  return written;
}

void read_dense_base(const json& source, const std::string& where, const std::string& family,
                     const std::vector<std::string>& own_keys, const json& defaults, ModelConfig& config) {
  json dense = source;
  for (const std::string& key : own_keys) dense.erase(key);
  for (const char* key : {"attention_bias", "mlp_bias", "output_router_logits", "router_aux_loss_coef"})
    dense.erase(key);
  for (const auto& [key, value] : defaults.items()) {
    const bool is_absent = !dense.contains(key) || dense[key].is_null();
    const bool is_elsewhere = key == "rope_theta" && dense.contains("rope_parameters");
    if (is_absent && !is_elsewhere) dense[key] = value;
  }
  dense["model_type"] = family;
  config.model_type = family;
  model_families().at(family).read_config(dense, where, config);
  config.source = std::move(dense);
}

MoeConfig read_stock_moe(const JsonFields& fields, const ModelConfig& config, const char* experts_key,
                         int64_t experts_default, const char* top_k_key, int64_t top_k_default) {
  MoeConfig moe;
  moe.base_model_type = config.model_type;
  moe.num_experts = fields.integer_or(experts_key, experts_default);
  check_num_experts(fields, experts_key, moe.num_experts, config.num_layers);
  moe.top_k = fields.integer_or(top_k_key, top_k_default);
  if (moe.top_k > moe.num_experts)
    throw InvalidArgument(concat(fields.where(), ": `", top_k_key, "` ", moe.top_k, " is more than `", experts_key,
                                 "` ", moe.num_experts));
  moe.shared_widths.assign(config.num_layers, 0);
  moe.output_scale.assign(config.num_layers, 1.0);
  // Renormalised over one expert the weight is 1: the same value, and a router that learns when it is trained further.
  moe.topk_norm = moe.top_k == 1 ? "straight_through" : "renorm";
  return moe;
}

std::vector<double> read_stock_scales(const JsonFields& fields, const char* key, double otherwise, int64_t layers) {
  if (fields.has(key) && fields.required(key).is_array()) return fields.numbers(key, layers);
  return std::vector<double>(layers, fields.number_or(key, otherwise));
}

}  // namespace moe
