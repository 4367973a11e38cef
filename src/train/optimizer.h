#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/parameters.h"
#include "train/parameter_groups.h"

namespace moe {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< on parameters that decay (matrices)
};

/// AdamW, moments in the parameters' own type. Only `step` and the moments are state, and what is not trained has none.
/// Source   Loshchilov & Hutter 2019, arXiv:1711.05101; LibTorch's fused CPU update.
class AdamW {
 public:
  /// `groups`: [parameters], or empty: all are trained alike.
  AdamW(std::vector<Parameter>& parameters, AdamWOptions options, std::vector<ParameterGroup> groups = {});

  /// Updates every trained parameter that has a gradient from that times `gradient_scale`; one without (of no use to
  /// the loss) keeps its value and moments to the bit, and does not decay. `step` counts from 1 (bias correction);
  /// `missed`, [parameters] or empty: the updates among those before in which a parameter stood still, whose moments
  /// they did not enter.
  void update(double learning_rate, double gradient_scale, int64_t step, const std::vector<int64_t>& missed = {});
  void zero_gradients();

  /// [parameters]; undefined where a parameter is not trained.
  std::vector<at::Tensor>& first_moments() { return first_moments_; }
  std::vector<at::Tensor>& second_moments() { return second_moments_; }

 private:
  void update_alike(const ParameterGroup& group, bool decays, double learning_rate, double gradient_scale, int64_t step,
                    const std::vector<int64_t>& missed);

  std::vector<Parameter>& parameters_;
  std::vector<ParameterGroup> groups_;  ///< [parameters]
  std::vector<ParameterGroup> kinds_;   ///< those of groups_ that are trained, each once
  AdamWOptions options_;
  std::vector<at::Tensor> first_moments_;
  std::vector<at::Tensor> second_moments_;
};

}  // namespace moe
