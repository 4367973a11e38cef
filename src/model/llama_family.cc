#include "model/llama_family.h"

#include "model/json_fields.h"

namespace moe {
namespace {

void refuse_unsupported(const JsonFields& fields) {
  if (fields.text_or("hidden_act", "silu") != "silu") fields.fail("hidden_act", "\"silu\"");
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (fields.boolean_or(bias, false)) fields.fail(bias, "false: biases are not supported");
  }
  if (fields.number_or("partial_rotary_factor", 1) != 1) {
    fields.fail("partial_rotary_factor", "1: turning a part of each head is not supported");
  }
  // transformers 5 writes rope_parameters, 4 rope_scaling; the latter wins where both stand.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(key)) continue;
    const JsonFields rope(fields.required(key), fields.where() + ": " + key);
    const std::string type = rope.text_or("rope_type", rope.text_or("type", "default"));
    if (type != "default") fields.fail(key, "null or rope_type \"default\": position scaling is not supported");
    if (std::string(key) == "rope_scaling") return;
  }
}

/// Far more than any model has; keeps a broken config from filling memory with names.
constexpr int64_t kMaxLayers = 4096;

double rope_theta(const JsonFields& fields) {
  if (fields.has("rope_parameters") && !fields.has("rope_theta")) {
    return JsonFields(fields.required("rope_parameters"), fields.where() + ": rope_parameters").number_or("rope_theta", 10000);
  }
  return fields.number_or("rope_theta", 10000);
}

void read_config(const nlohmann::json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  refuse_unsupported(fields);
  config.hidden_size = fields.integer("hidden_size");
  config.intermediate_size = fields.integer("intermediate_size");
  config.num_layers = fields.integer("num_hidden_layers");
  if (config.num_layers > kMaxLayers) fields.fail("num_hidden_layers", concat("at most ", kMaxLayers));
  config.num_heads = fields.integer("num_attention_heads");
  config.num_kv_heads = fields.integer_or("num_key_value_heads", config.num_heads);
  config.vocab_size = fields.integer("vocab_size");
  config.max_positions = fields.integer_or("max_position_embeddings", 2048);
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6);
  config.rope_theta = rope_theta(fields);
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  if (fields.has("head_dim")) {
    config.head_dim = fields.integer("head_dim");
  } else if (config.hidden_size % config.num_heads != 0) {
    fields.fail("num_attention_heads", concat("a divisor of hidden_size ", config.hidden_size, " (or head_dim given)"));
  } else {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0) throw InvalidArgument(concat(where, ": head_dim ", config.head_dim, " is odd; RoPE turns pairs"));
  if (config.num_heads % config.num_kv_heads != 0) {
    fields.fail("num_key_value_heads", concat("a divisor of num_attention_heads ", config.num_heads));
  }
  if (!(config.rms_norm_eps > 0)) fields.fail("rms_norm_eps", "a number above 0");
  if (!(config.rope_theta > 0)) throw InvalidArgument(concat(where, ": rope_theta is ", config.rope_theta, "; expected a number above 0"));
}

std::vector<TensorSpec> dense_tensors(const ModelConfig& c) {
  std::vector<TensorSpec> specs{{"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}}};
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto add = [&](const char* name, std::vector<int64_t> shape) { specs.push_back({prefix + name, std::move(shape)}); };
    add("input_layernorm.weight", {c.hidden_size});
    add("self_attn.q_proj.weight", {c.num_heads * c.head_dim, c.hidden_size});
    add("self_attn.k_proj.weight", {c.num_kv_heads * c.head_dim, c.hidden_size});
    add("self_attn.v_proj.weight", {c.num_kv_heads * c.head_dim, c.hidden_size});
    add("self_attn.o_proj.weight", {c.hidden_size, c.num_heads * c.head_dim});
    add("post_attention_layernorm.weight", {c.hidden_size});
    add("mlp.gate_proj.weight", {c.intermediate_size, c.hidden_size});
    add("mlp.up_proj.weight", {c.intermediate_size, c.hidden_size});
    add("mlp.down_proj.weight", {c.hidden_size, c.intermediate_size});
  }
  specs.push_back({"model.norm.weight", {c.hidden_size}});
  if (!c.tie_word_embeddings) specs.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}});
  return specs;
}

}  // namespace

ModelFamily llama_family() { return {read_config, dense_tensors}; }

}  // namespace moe
