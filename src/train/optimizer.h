#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/parameters.h"

namespace moe {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< on parameters that decay (matrices)
};

/// AdamW over the parameters of a decoder, moments in the parameters' own type. Only `step` and the moments are state.
/// Source   Loshchilov & Hutter 2019, arXiv:1711.05101; LibTorch's fused CPU update.
class AdamW {
 public:
  AdamW(std::vector<Parameter>& parameters, AdamWOptions options);

  /// Updates every parameter that has a gradient from that times `gradient_scale`; one without (frozen, or of no use to
  /// the loss) keeps its value and moments to the bit, and does not decay. `step` counts from 1 (bias correction).
  void update(double learning_rate, double gradient_scale, int64_t step);
  void zero_gradients();

  std::vector<at::Tensor>& first_moments() { return first_moments_; }
  std::vector<at::Tensor>& second_moments() { return second_moments_; }

 private:
  std::vector<Parameter>& parameters_;
  AdamWOptions options_;
  std::vector<at::Tensor> first_moments_;
  std::vector<at::Tensor> second_moments_;
};

}  // namespace moe
