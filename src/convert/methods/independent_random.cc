#include "convert/methods/independent_random.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/rng.h"

namespace moe {
namespace {

LayerPlan plan_random(const LayerInputs& inputs, Communicator& /*world*/) {
  const std::vector<int64_t> order = random_permutation(
      inputs.config.intermediate_size, CounterRng(inputs.seed, kStreamSplit, static_cast<uint32_t>(inputs.layer)));
  const int64_t size = inputs.config.intermediate_size / inputs.spec.ffn().experts();
  std::vector<std::vector<int32_t>> experts;
  for (int64_t expert = 0; expert < inputs.spec.ffn().experts(); ++expert) {
    std::vector<int32_t> neurons(order.begin() + expert * size, order.begin() + (expert + 1) * size);
    std::sort(neurons.begin(), neurons.end());
    experts.push_back(std::move(neurons));
  }
  return plan_of_neurons(std::move(experts));
}

}  // namespace

ConversionMethod independent_random() {
  return {.summary = "random equal parts, per layer (LLaMA-MoE v1)",
          .is_partition = true,
          .plan = plan_random,
          .widths = equal_parts};
}

}  // namespace moe
