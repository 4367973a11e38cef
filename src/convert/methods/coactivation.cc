#include "convert/methods/coactivation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "comm/agreement.h"
#include "convert/coactivation.h"
#include "convert/graph_partition.h"

namespace moe {
namespace {

LayerPlan plan_coactivation(const LayerInputs& inputs, Communicator& world) {
  const int64_t neurons = inputs.config.intermediate_size;
  const double share = inputs.options.number("active");
  const auto active = std::max(int64_t{1}, static_cast<int64_t>(std::ceil(share * static_cast<double>(neurons))));
  const at::Tensor& activations_TF = inputs.features->activations_TF;
  if (any_rank(world, "activations that are not finite", !activations_TF.isfinite().all().item<bool>()))
    throw_overflow(inputs.layer);
  const Coactivation together(active_neurons(activations_TF, active, world), neurons);
  const std::vector<int32_t> part_of = balanced_partition(coactivation_edges(together), inputs.spec.ffn().experts());
  std::vector<std::vector<int32_t>> experts(inputs.spec.ffn().experts());
  for (int64_t neuron = 0; neuron < neurons; ++neuron) experts[part_of[neuron]].push_back(static_cast<int32_t>(neuron));
  return plan_of_neurons(std::move(experts));
}

}  // namespace

ConversionMethod coactivation() {
  return {
      .summary =
          "equal parts of neurons that are active on the same tokens (edges as LLaMA-MoE v1's graph split, of counts)",
      .is_partition = true,
      .plan = plan_coactivation,
      .widths = equal_parts,
      .needs = {.activations = true},
      .options = {
          {.name = "active", .help = "share of the neurons that count as active on a token", .fallback = "0.1"}}};
}

}  // namespace moe
