#include "train/working_weights.h"

#include "common/error.h"

namespace moe {

WorkingWeights::WorkingWeights(std::vector<Parameter>& masters, std::vector<Parameter>& working)
    : masters_(masters), working_(working) {
  MOE_CHECK(masters.size() == working.size(), masters.size(), " masters of ", working.size(), " weights");
  for (size_t i = 0; i < masters.size(); ++i)
    MOE_CHECK(masters[i].id == working[i].id, masters[i].name, " is no master of ", working[i].name);
}

void WorkingWeights::round() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < masters_.size(); ++i) working_[i].value.copy_(masters_[i].value);
}

void WorkingWeights::require_gradients() {
  for (size_t i = 0; i < masters_.size(); ++i) working_[i].value.set_requires_grad(masters_[i].value.requires_grad());
}

void WorkingWeights::move_gradients() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < masters_.size(); ++i) {
    at::Tensor &gradient = working_[i].value.mutable_grad(), &sum = masters_[i].value.mutable_grad();
    if (!gradient.defined()) continue;
    if (sum.defined()) {
      sum.add_(gradient);
    } else {
      sum = gradient.to(masters_[i].value.scalar_type());
    }
    gradient.reset();
  }
}

}  // namespace moe
