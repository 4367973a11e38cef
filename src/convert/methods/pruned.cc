#include "convert/methods/pruned.h"

#include <algorithm>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "convert/neuron_scores.h"

namespace moe {
namespace {

/// The first neurons of independent_random's order: as wide as its experts, this is its first.
LayerPlan plan_pruned_random(const LayerInputs& inputs, Communicator& /*world*/) {
  const std::vector<int64_t> order = random_permutation(
      inputs.config.intermediate_size, CounterRng(inputs.seed, kStreamSplit, static_cast<uint32_t>(inputs.layer)));
  std::vector<int32_t> kept(order.begin(), order.begin() + inputs.spec.ffn().expert_width());
  std::sort(kept.begin(), kept.end());
  return plan_of_neurons({std::move(kept)});
}

LayerPlan plan_pruned_gradient(const LayerInputs& inputs, Communicator& /*world*/) {
  return plan_of_neurons({best_neurons(inputs.importance->scores_GF[0], inputs.spec.ffn().expert_width())});
}

std::string pruned_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn) {
  if (ffn.experts() != 1) {
    return concat("ffn.experts is ", ffn.experts(), ", and ffn.method ", ffn.method(),
                  " makes one expert, which every token goes to; use 1");
  }
  if (ffn.has_expert_width() && ffn.expert_width() <= config.intermediate_size) return "";
  return concat("ffn.expert_width is ", ffn.has_expert_width() ? std::to_string(ffn.expert_width()) : "missing",
                "; say how many of ", config.intermediate_size, " neurons ffn.method ", ffn.method(), " keeps");
}

}  // namespace

ConversionMethod pruned_random() {
  return {.summary = "a baseline: one expert of ffn.expert_width random neurons (LLaMA-MoE v1)",
          .is_partition = false,
          .plan = plan_pruned_random,
          .widths = equal_parts,
          .has_free_width = true,
          .size_problem = pruned_problem};
}

ConversionMethod pruned_gradient() {
  return {.summary = "a baseline: one expert of the ffn.expert_width most important neurons (LLaMA-MoE v1)",
          .is_partition = false,
          .plan = plan_pruned_gradient,
          .widths = equal_parts,
          .needs = {.gradients = true},
          .has_free_width = true,
          .size_problem = pruned_problem};
}

}  // namespace moe
