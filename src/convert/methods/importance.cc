#include "convert/methods/importance.h"

#include "convert/methods/importance_options.h"

namespace moe {

ConversionMethod split_by_importance() {
  return {.summary = "equal parts, by importance to the tokens of each expert (LLaMA-MoE v2)",
          .is_partition = true,
          .plan = plan_greedy,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .options =
              with_measure_options({clusters_option("router"), normalise_option("none"), criterion_option()}, "mean"),
          .text_problem = text_problem_for_experts,
          .group_tokens = group_for_experts,
          .groups_name = groups_for_experts,
          .own_router_init = router_of_groups};
}

}  // namespace moe
