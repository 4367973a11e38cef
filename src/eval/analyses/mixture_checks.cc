#include "eval/analyses/mixture_checks.h"

#include "eval/text_analysis.h"

namespace moe {

std::string needs_a_router(const ModelDirectory& model) {
  return routers_of(model.config()).empty() ? "the model is dense: nothing routes; give it a mixture of experts" : "";
}

std::string needs_ffn_experts(const ModelDirectory& model) {
  const ModelConfig& config = model.config();
  if (!config.moe) return needs_a_router(model);
  return config.moe->mixture_layers().empty() ? "no layer of the model has FFN experts" : "";
}

}  // namespace moe
