#include "convert/methods/independent_gradient.h"

#include "convert/methods/importance_options.h"

namespace moe {

ConversionMethod independent_gradient() {
  return {.summary = "equal parts, by importance to clusters of text (LLaMA-MoE v1)",
          .is_partition = true,
          .plan = plan_greedy,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .options = with_measure_options(
              {clusters_option("text"), normalise_option("per_cluster_sum", "none"), criterion_option()}, ""),
          .text_problem = text_problem_for_experts,
          .group_tokens = group_for_experts,
          .groups_name = groups_for_experts,
          .own_router_init = router_of_groups};
}

}  // namespace moe
