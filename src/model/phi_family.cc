#include "model/phi_family.h"

#include "model/config_fields.h"

namespace moe {
namespace {

void read_phi_config(const nlohmann::json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  read_common_fields(fields,
                     {.activation = "gelu_new",
                      .norm_eps_key = "layer_norm_eps",
                      .norm_eps = 1e-5,
                      .partial_rotary_factor = 0.5,
                      .turns_whole_heads = false},
                     config);
  if (fields.boolean_or("qk_layernorm", false))
    fields.fail("qk_layernorm", "false: norms of queries and keys are not supported");
  config.norm = NormKind::kLayer;
  config.qkv_bias = config.o_bias = config.mlp_bias = config.head_bias = true;
  config.is_gated = false;
  config.is_parallel = true;
}

}  // namespace

ModelFamily phi_family() {
  return {read_phi_config,
          {.final_norm = "model.final_layernorm",
           .attention_out = "self_attn.dense",
           .gate = "",
           .up = "mlp.fc1",
           .down = "mlp.fc2"},
          "PhiForCausalLM"};
}

}  // namespace moe
