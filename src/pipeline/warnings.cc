#include "pipeline/warnings.h"

#include "common/error.h"
#include "common/idle_ranks.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

/// One expert's weight renormalised is 1, whatever its logit.
void check_router_gradient(const v1::Stage& stage, std::vector<std::string>& warnings) {
  const v1::ConvertSpec& convert = stage.convert();
  if (convert.top_k() != 1 || convert.topk_norm() != "renorm" || convert.experts() < 2) return;
  warnings.push_back(concat(
      "stage ", stage_name(stage), ": topk_norm renorm with top_k 1 gives each token's only expert the weight 1 ",
      "whatever the router says, so the loss gives the router no gradient and training moves it by the balance ",
      "loss alone; use straight_through (the default for top_k 1) or raw"));
}

void check_idle_ranks(const v1::Stage& stage, std::vector<std::string>& warnings) {
  const std::string idle = idle_ranks(stage.gang().ranks(), stage.train().micro_batch_rows());
  if (!idle.empty()) warnings.push_back(concat("stage ", stage_name(stage), ": gang.ranks: ", idle));
}

}  // namespace

std::vector<std::string> warnings_of(const v1::PipelineSpec& effective) {
  std::vector<std::string> warnings;
  for (const v1::Stage& stage : effective.stages()) {
    if (stage.has_convert()) check_router_gradient(stage, warnings);
    if (stage.has_train()) check_idle_ranks(stage, warnings);
  }
  return warnings;
}

}  // namespace moe
