#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/test_device.h"

namespace moe::testing {

using TensorFunction = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// A tensor of a function's own beside one that it got: on the same device.
inline at::Tensor beside(const at::Tensor& given, const at::Tensor& own) {
  return own.to(given.device());
}

/// Value and gradients of `ours`, run on the test's device, equal those of `reference`, run on the CPU, to 1e-10, for a
/// random gradient of the result.
inline void expect_same_function(const TensorFunction& ours, const TensorFunction& reference,
                                 const std::vector<at::Tensor>& inputs) {
  constexpr double kTolerance = 1e-10;
  std::vector<at::Tensor> values;
  std::vector<std::vector<at::Tensor>> gradients;
  for (const TensorFunction* function : {&ours, &reference}) {
    const at::Device device = function == &ours ? test_device() : at::Device(at::kCPU);
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& input : inputs)
      leaves.push_back(input.detach().to(device, input.scalar_type(), false, /*copy=*/true).requires_grad_(true));
    const at::Tensor value = (*function)(leaves);
    value.backward(random_normal(value.sizes().vec(), 99).to(device));
    values.push_back(value.detach().cpu());
    gradients.emplace_back();
    for (const at::Tensor& leaf : leaves) {
      gradients.back().push_back((leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf)).cpu());
    }
  }
  EXPECT_TRUE(near(values[0], values[1], kTolerance));
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(near(gradients[0][i], gradients[1][i], kTolerance)) << "gradient of input " << i;
  }
}

}  // namespace moe::testing
