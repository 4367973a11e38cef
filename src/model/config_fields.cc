#include "model/config_fields.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "model/rope_config.h"

namespace moe {
namespace {

/// Far more than any model has; keeps a broken config from filling memory with names.
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxExpertsOfAllLayers = int64_t{1} << 18;

void read_heads(const JsonFields& fields, ModelConfig& config) {
  config.num_heads = fields.integer("num_attention_heads");
  config.num_kv_heads = fields.integer_or("num_key_value_heads", config.num_heads);
  if (fields.has("head_dim")) {
    config.head_dim = fields.integer("head_dim");
  } else if (config.hidden_size % config.num_heads != 0) {
    fields.fail("num_attention_heads", concat("a divisor of hidden_size ", config.hidden_size, " (or head_dim given)"));
  } else {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    fields.fail("num_key_value_heads", concat("a divisor of num_attention_heads ", config.num_heads));
  }
}

/// transformers has several names for one function (ACT2FN in its activations.py).
std::string activation_of(const std::string& name) {
  if (name == "swish") return "silu";
  for (const char* same : {"gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"}) {
    if (name == same) return "gelu_new";
  }
  return name;
}

}  // namespace

void read_common_fields(const JsonFields& fields, const FamilyFields& family, ModelConfig& config) {
  if (activation_of(fields.text_or("hidden_act", family.activation)) != family.activation) {
    fields.fail("hidden_act", concat("\"", family.activation, "\""));
  }
  config.hidden_size = fields.integer("hidden_size");
  config.intermediate_size = fields.integer("intermediate_size");
  config.num_layers = fields.integer("num_hidden_layers");
  if (config.num_layers > kMaxLayers) fields.fail("num_hidden_layers", concat("at most ", kMaxLayers));
  read_heads(fields, config);
  config.vocab_size = fields.integer("vocab_size");
  config.max_positions = fields.integer_or("max_position_embeddings", 2048);
  config.norm_eps = fields.positive_or(family.norm_eps_key, family.norm_eps);
  config.rope = read_rope(
      fields, {config.head_dim, config.max_positions, family.partial_rotary_factor, family.turns_whole_heads});
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
}

void check_num_experts(const JsonFields& fields, const char* key, int64_t experts, int64_t layers) {
  if (experts * layers > kMaxExpertsOfAllLayers)
    fields.fail(key, concat("at most ", kMaxExpertsOfAllLayers / layers, " in a model of ", layers, " layers"));
}

std::string read_router_score(const JsonFields& fields) {
  const std::string score = fields.text_or("score", "softmax");
  if (score != "softmax" && score != "sigmoid") fields.fail("score", "\"softmax\" or \"sigmoid\"");
  return score;
}

std::string read_topk_norm(const JsonFields& fields) {
  const std::string norm = fields.text_or("topk_norm", "renorm");
  constexpr const char* kNorms[] = {"renorm", "straight_through", "raw", "unit", "one_plus"};
  if (std::find(std::begin(kNorms), std::end(kNorms), norm) == std::end(kNorms))
    fields.fail("topk_norm", "\"renorm\", \"straight_through\", \"raw\", \"unit\" or \"one_plus\"");
  return norm;
}

}  // namespace moe
