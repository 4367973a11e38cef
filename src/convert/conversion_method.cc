#include "convert/conversion_method.h"

namespace moe {

LayerWidths equal_parts(const ModelConfig& config, const v1::ConvertSpec& spec) {
  const v1::FfnExpertsSpec& ffn = spec.ffn();
  const int64_t width = config.intermediate_size / (ffn.experts() + ffn.shared_experts());
  return {std::vector<int64_t>(ffn.experts(), width), ffn.shared_experts() * width};
}

std::string needs_gated_ffn(const ModelConfig& config) {
  return config.is_gated
             ? ""
             : "it needs a gated FFN (down(silu(gate x) * up x)), and that of " + config.model_type + " has no gate";
}

}  // namespace moe
