#include "convert/methods/sequential.h"

#include <numeric>
#include <utility>
#include <vector>

namespace moe {
namespace {

LayerPlan plan_sequential(const LayerInputs& inputs, Communicator& /*world*/) {
  const int64_t size = inputs.config.intermediate_size / inputs.spec.ffn().experts();
  std::vector<std::vector<int32_t>> experts;
  for (int64_t expert = 0; expert < inputs.spec.ffn().experts(); ++expert) {
    std::vector<int32_t> neurons(size);
    std::iota(neurons.begin(), neurons.end(), static_cast<int32_t>(expert * size));
    experts.push_back(std::move(neurons));
  }
  return plan_of_neurons(std::move(experts));
}

}  // namespace

ConversionMethod sequential() {
  return {.summary = "consecutive equal parts (LLaMA-MoE v2, vanilla)",
          .is_partition = true,
          .plan = plan_sequential,
          .widths = equal_parts};
}

}  // namespace moe
