#include "convert/conversion_method.h"

namespace moe {

LayerWidths equal_parts(const ModelConfig& config, const v1::ConvertSpec& spec) {
  return {std::vector<int64_t>(spec.ffn().experts(), config.intermediate_size / spec.ffn().experts())};
}

std::string needs_gated_ffn(const ModelConfig& config) {
  return config.is_gated
             ? ""
             : "it needs a gated FFN (down(silu(gate x) * up x)), and that of " + config.model_type + " has no gate";
}

}  // namespace moe
