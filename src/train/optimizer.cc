#include "train/optimizer.h"

#include <ATen/ops/_fused_adamw.h>

#include <algorithm>
#include <utility>

#include "common/error.h"

namespace moe {

AdamW::AdamW(std::vector<Parameter>& parameters, AdamWOptions options, std::vector<ParameterGroup> groups)
    : parameters_(parameters), groups_(std::move(groups)), options_(options) {
  if (groups_.empty()) groups_.resize(parameters_.size());
  MOE_CHECK(groups_.size() == parameters_.size(), groups_.size(), " groups of ", parameters_.size(), " parameters");
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor first, second;
    if (groups_[i].is_trained) {
      const at::ScalarType type = parameters_[i].value.scalar_type();
      MOE_CHECK(type == at::kFloat || type == at::kDouble, parameters_[i].name, " is trained in ", c10::toString(type),
                ", in which small steps are lost; its master is what to train (train/working_weights.h)");
      first = at::zeros_like(parameters_[i].value, at::TensorOptions().requires_grad(false));
      second = at::zeros_like(parameters_[i].value, at::TensorOptions().requires_grad(false));
      if (std::find(kinds_.begin(), kinds_.end(), groups_[i]) == kinds_.end()) kinds_.push_back(groups_[i]);
    }
    first_moments_.push_back(first);
    second_moments_.push_back(second);
  }
}

void AdamW::update(double learning_rate, double gradient_scale, int64_t step, const std::vector<int64_t>& missed) {
  const at::NoGradGuard no_grad;
  MOE_CHECK(missed.empty() || missed.size() == parameters_.size(), missed.size(), " counts of missed updates of ",
            parameters_.size(), " parameters");
  for (const ParameterGroup& group : kinds_) {
    for (const bool decays : {true, false}) update_alike(group, decays, learning_rate, gradient_scale, step, missed);
  }
}

void AdamW::update_alike(const ParameterGroup& group, bool decays, double learning_rate, double gradient_scale,
                         int64_t step, const std::vector<int64_t>& missed) {
  std::vector<at::Tensor> values, gradients, first, second, steps;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (groups_[i] != group || parameters_[i].decays != decays || parameters_[i].value.numel() == 0 ||
        !parameters_[i].value.grad().defined())
      continue;
    values.push_back(parameters_[i].value.detach());
    gradients.push_back(parameters_[i].value.grad());
    if (gradient_scale != 1) gradients.back().mul_(gradient_scale);
    first.push_back(first_moments_[i]);
    second.push_back(second_moments_[i]);
    steps.push_back(at::full({}, static_cast<double>(missed.empty() ? step : step - missed[i]),
                             at::device(values.back().device()).dtype(at::kFloat)));
  }
  if (values.empty()) return;
  at::_fused_adamw_(values, gradients, first, second, /*max_exp_avg_sqs=*/{}, steps,
                    learning_rate * group.learning_rate_factor, options_.beta1, options_.beta2,
                    decays ? options_.weight_decay * group.weight_decay_factor : 0.0, options_.epsilon,
                    /*amsgrad=*/false, /*maximize=*/false);
}

void AdamW::zero_gradients() {
  for (Parameter& parameter : parameters_) parameter.value.mutable_grad().reset();
}

}  // namespace moe
