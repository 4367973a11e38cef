#include "train/optimizer.h"

#include <ATen/ops/_fused_adamw.h>

namespace moe {

AdamW::AdamW(std::vector<Parameter>& parameters, AdamWOptions options) : parameters_(parameters), options_(options) {
  for (const Parameter& parameter : parameters_) {
    first_moments_.push_back(at::zeros_like(parameter.value, at::TensorOptions().requires_grad(false)));
    second_moments_.push_back(at::zeros_like(parameter.value, at::TensorOptions().requires_grad(false)));
  }
}

void AdamW::update(double learning_rate, double gradient_scale, int64_t step) {
  const at::NoGradGuard no_grad;
  for (const bool decays : {true, false}) {
    std::vector<at::Tensor> values, gradients, first, second, steps;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].decays != decays || parameters_[i].value.numel() == 0 ||
          !parameters_[i].value.grad().defined())
        continue;
      values.push_back(parameters_[i].value.detach());
      gradients.push_back(parameters_[i].value.grad());
      if (gradient_scale != 1) gradients.back().mul_(gradient_scale);
      first.push_back(first_moments_[i]);
      second.push_back(second_moments_[i]);
      steps.push_back(at::full({}, static_cast<double>(step), at::kFloat));
    }
    if (values.empty()) continue;
    at::_fused_adamw_(values, gradients, first, second, /*max_exp_avg_sqs=*/{}, steps, learning_rate, options_.beta1,
                      options_.beta2, decays ? options_.weight_decay : 0.0, options_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void AdamW::zero_gradients() {
  for (Parameter& parameter : parameters_) parameter.value.mutable_grad().reset();
}

}  // namespace moe
