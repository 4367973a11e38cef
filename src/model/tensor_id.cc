#include "model/tensor_id.h"

#include "common/error.h"
#include "model/model_families.h"

namespace moe {
namespace {

/// Within an expert, whatever the family.
const char* expert_matrix(TensorPart part) {
  switch (part) {
    case TensorPart::kGate: return "gate_proj";
    case TensorPart::kUp: return "up_proj";
    case TensorPart::kDown: return "down_proj";
    case TensorPart::kGateUp: return "gate_up_proj";
    case TensorPart::kQuery: return "q_proj";
    case TensorPart::kKey: return "k_proj";
    case TensorPart::kValue: return "v_proj";
    case TensorPart::kQueryKeyValue: return "qkv_proj";
    case TensorPart::kAttentionOut: return "o_proj";
    default: throw Internal("an expert has no such part");
  }
}

/// Below "model.layers.L.".
std::string layer_part(const TensorNames& names, const TensorId& id) {
  if (id.expert == kSharedExpert) return std::string("mlp.shared_expert.") + expert_matrix(id.part);
  const char* const half = id.is_of_attention() ? "self_attn" : "mlp";
  if (id.expert == kStack) return concat(half, ".experts.", expert_matrix(id.part));
  if (id.is_routed()) return concat(half, ".experts.", id.expert, ".", expert_matrix(id.part));
  switch (id.part) {
    case TensorPart::kInputNorm: return "input_layernorm";
    case TensorPart::kQuery: return "self_attn.q_proj";
    case TensorPart::kKey: return "self_attn.k_proj";
    case TensorPart::kValue: return "self_attn.v_proj";
    case TensorPart::kAttentionOut: return names.attention_out;
    case TensorPart::kPostAttentionNorm: return "post_attention_layernorm";
    case TensorPart::kRouter: return concat(half, ".router");
    case TensorPart::kRouterOut: return "mlp.router.out";
    case TensorPart::kRouterGate: return "mlp.router.gate";
    case TensorPart::kRouterNoise: return "mlp.router.noise";
    case TensorPart::kSharedGate: return "mlp.shared_expert_gate";
    case TensorPart::kGate: return names.gate;
    case TensorPart::kUp: return names.up;
    case TensorPart::kDown: return names.down;
    default: throw Internal("a layer has no such part");
  }
}

std::string module_name(const TensorNames& names, const TensorId& id) {
  switch (id.part) {
    case TensorPart::kEmbedding: return "model.embed_tokens";
    case TensorPart::kFinalNorm: return names.final_norm;
    case TensorPart::kHead: return "lm_head";
    default: return concat("model.layers.", id.layer, ".", layer_part(names, id));
  }
}

}  // namespace

bool TensorId::is_of_attention() const {
  switch (part) {
    case TensorPart::kQuery:
    case TensorPart::kKey:
    case TensorPart::kValue:
    case TensorPart::kQueryKeyValue:
    case TensorPart::kAttentionOut: return true;
    default: return routes_attention;
  }
}

std::string tensor_name(const ModelConfig& config, const TensorId& id) {
  // Vectors that are no module's weight or bias.
  if (id.part == TensorPart::kOutputBias) return concat("model.layers.", id.layer, ".mlp.output_bias");
  const std::string router = concat("model.layers.", id.layer, id.routes_attention ? ".self_attn" : ".mlp", ".router");
  if (id.part == TensorPart::kSelectionBias) return router + ".selection_bias";
  if (id.part == TensorPart::kRouterGain) return router + ".gain";
  const std::string module = module_name(model_families().at(config.model_type).names, id);
  if (id.expert == kStack) return module + (id.is_bias ? "_bias" : "");
  return module + (id.is_bias ? ".bias" : ".weight");
}

}  // namespace moe
