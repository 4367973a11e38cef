#include "model/llama_family.h"

#include "model/config_fields.h"

namespace moe {
namespace {

void read_llama_config(const nlohmann::json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  read_common_fields(fields, {.activation = "silu", .norm_eps_key = "rms_norm_eps", .norm_eps = 1e-6}, config);
  config.qkv_bias = config.o_bias = fields.boolean_or("attention_bias", false);
  config.mlp_bias = fields.boolean_or("mlp_bias", false);
}

}  // namespace

ModelFamily llama_family() {
  return {read_llama_config, {}, "LlamaForCausalLM"};
}

}  // namespace moe
