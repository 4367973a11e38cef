#include "convert/methods/residual.h"

#include <utility>
#include <vector>

#include "convert/greedy_assignment.h"
#include "convert/methods/importance_options.h"
#include "convert/shared_selection.h"

namespace moe {
namespace {

LayerPlan plan_residual(const LayerInputs& inputs, Communicator& /*world*/) {
  const at::Tensor scores = scores_by_option(inputs);
  const int64_t width = part_width(inputs.config, inputs.spec.ffn());
  std::vector<int32_t> shared = shared_selection(scores, width, inputs.spec.ffn().shared_experts() * width);
  std::vector<std::vector<int32_t>> experts =
      greedy_assignment(scores, width, neurons_without(inputs.config.intermediate_size, shared));
  return plan_of_neurons(std::move(experts), std::move(shared));
}

std::string residual_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  const std::string problem = shared_problem(ffn);
  return problem.empty() ? division_problem(config, ffn) : problem;
}

}  // namespace

ConversionMethod residual() {
  return {.summary = "a shared part of what most experts need, and equal parts by importance (LLaMA-MoE v2)",
          .is_partition = true,
          .plan = plan_residual,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .options = with_measure_options({clusters_option("router"), normalise_option("none")}, "mean"),
          .has_shared = true,
          .size_problem = residual_problem,
          .text_problem = text_problem_for_experts,
          .group_tokens = group_for_experts,
          .groups_name = groups_for_experts,
          .own_router_init = router_of_groups};
}

}  // namespace moe
