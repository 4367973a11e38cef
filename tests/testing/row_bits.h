#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "testing/compare.h"

namespace moe::testing {

/// A differentiable function of the rows [first, first + in.size(0)) of the input.
using RowFunction = std::function<at::Tensor(const at::Tensor& in, int64_t first)>;

/// What makes layouts of expert parallelism agree bit for bit: every row of x computed alone, and in batches of 13,
/// equals the row computed with all, forward and (for the gradient dy) backward.
inline void expect_rows_alone(const std::map<std::string, RowFunction>& functions, const at::Tensor& x,
                              const at::Tensor& dy) {
  const int64_t rows = x.size(0);
  const auto run = [&](const RowFunction& function, int64_t first, int64_t count) {
    const at::Tensor in = x.narrow(0, first, count).clone().requires_grad_(true);
    const at::Tensor out = function(in, first);
    out.backward(dy.narrow(0, first, count).narrow(1, 0, out.size(1)).contiguous());
    return std::pair(out.detach(), in.grad());
  };
  for (const auto& [name, function] : functions) {
    const auto [all_out, all_gradient] = run(function, 0, rows);
    for (const int64_t batch : {int64_t{1}, int64_t{13}}) {
      int64_t differ = 0;
      for (int64_t first = 0; first < rows; first += batch) {
        const int64_t count = std::min(batch, rows - first);
        const auto [out, gradient] = run(function, first, count);
        differ += rows_that_differ(out, all_out.narrow(0, first, count));
        differ += rows_that_differ(gradient, all_gradient.narrow(0, first, count));
      }
      EXPECT_EQ(differ, 0) << name << ": of " << 2 * rows << " rows and gradients, in batches of " << batch;
    }
  }
}

}  // namespace moe::testing
