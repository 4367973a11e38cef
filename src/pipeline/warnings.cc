#include "pipeline/warnings.h"

#include "common/error.h"
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
  const int ranks = stage.gang().ranks(), rows = stage.train().micro_batch_rows();
  if (ranks <= rows) return;
  warnings.push_back(concat("stage ", stage_name(stage), ": ", ranks - rows, " of gang.ranks ", ranks,
                            " get no rows, since a global micro-batch has micro_batch_rows ", rows,
                            ": they idle, or run experts for the others; raise micro_batch_rows to a multiple of ",
                            ranks, " (and lower micro_steps), or use at most ", rows, " ranks"));
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
