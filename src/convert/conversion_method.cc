#include "convert/conversion_method.h"

#include "comm/agreement.h"
#include "common/divisors.h"
#include "common/error.h"

namespace moe {

PromptNeeds prompt_needs(const ConversionMethod& method, const MethodOptions& options) {
  return method.prompts ? method.prompts(options) : PromptNeeds::kNone;
}

bool makes_partition(const ConversionMethod& method, const v1::FfnExpertsSpec& ffn) {
  if (!method.is_partition_with) return method.is_partition;
  v1::ConvertSpec spec;
  *spec.mutable_ffn() = ffn;
  return method.is_partition_with(MethodOptions(method.options, spec));
}

int64_t part_width(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  return ffn.has_expert_width() ? ffn.expert_width()
                                : config.intermediate_size / (ffn.experts() + ffn.shared_experts());
}

LayerWidths equal_parts(const ModelConfig& config, const v1::ConvertSpec& spec) {
  const v1::FfnExpertsSpec& ffn = spec.ffn();
  const int64_t width = part_width(config, ffn);
  return {std::vector<int64_t>(ffn.experts(), width), ffn.shared_experts() * width};
}

std::string division_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  if (config.intermediate_size % (ffn.experts() + ffn.shared_experts()) == 0) return "";
  const bool has_shared = ffn.shared_experts() > 0;
  return concat(
      "ffn.experts ", ffn.experts(),
      has_shared ? concat(" and ffn.shared_experts ", ffn.shared_experts(), " together do") : std::string(" does"),
      " not divide the FFN width ", config.intermediate_size,
      has_shared ? "; let their sum be one of " : "; use one of ", divisors_of(config.intermediate_size));
}

void throw_overflow(int64_t layer) {
  throw_agreed<InvalidArgument>(concat("convert: layer ", layer,
                                       ": what neurons give on the calibration text is NaN or infinite: the "
                                       "activations overflow float32, as those of a damaged or diverged model do"));
}

std::string needs_gated_ffn(const ModelConfig& config) {
  return config.is_gated
             ? ""
             : "it needs a gated FFN (down(silu(gate x) * up x)), and that of " + config.model_type + " has no gate";
}

}  // namespace moe
