#include "convert/methods/sharing_inner.h"

#include <utility>
#include <vector>

#include "common/error.h"
#include "convert/methods/importance_options.h"
#include "convert/neuron_scores.h"

namespace moe {
namespace {

LayerPlan plan_sharing_inner(const LayerInputs& inputs, Communicator& /*world*/) {
  std::vector<std::vector<int32_t>> experts;
  for (int64_t expert = 0; expert < inputs.spec.ffn().experts(); ++expert)
    experts.push_back(best_neurons(inputs.importance->scores_GF[expert], part_width(inputs.config, inputs.spec.ffn())));
  return plan_of_neurons(std::move(experts));
}

std::string sharing_inner_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  if (!ffn.has_expert_width()) {
    const std::string problem = division_problem(config, ffn);
    return problem.empty() ? "" : problem + ", or give ffn.expert_width";
  }
  if (ffn.expert_width() <= config.intermediate_size) return "";
  return concat("ffn.expert_width is ", ffn.expert_width(), " of an FFN ", config.intermediate_size, " wide; use 1 to ",
                config.intermediate_size);
}

}  // namespace

ConversionMethod sharing_inner() {
  return {.summary = "the neurons most important to each cluster of text; experts overlap (LLaMA-MoE v1)",
          .is_partition = false,
          .plan = plan_sharing_inner,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .options = with_measure_options({clusters_option("text")}, ""),
          .has_free_width = true,
          .size_problem = sharing_inner_problem,
          .text_problem = text_problem_for_experts,
          .group_tokens = group_for_experts,
          .groups_name = groups_for_experts,
          .own_router_init = router_of_groups};
}

}  // namespace moe
