#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>

/// Comparisons of tensors for tests: expectations that print the figures that missed.
namespace moe::testing {

/// max |a - b|, 0 for empty tensors.
inline double max_difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0) return 0;
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

inline double max_abs(const at::Tensor& a) {
  return a.numel() == 0 ? 0 : a.abs().max().item<double>();
}

/// max |actual - expected| <= tolerance * max |expected| (and both are finite, of one shape).
inline ::testing::AssertionResult near(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  if (!actual.defined() || !expected.defined()) return ::testing::AssertionFailure() << "an undefined tensor";
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure() << "shape " << actual.sizes() << ", expected " << expected.sizes();
  }
  const double difference = max_difference(actual, expected), limit = tolerance * std::max(max_abs(expected), 1e-30);
  if (std::isfinite(difference) && difference <= limit) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "max |difference| " << difference << ", allowed " << limit
                                       << " (max |expected| " << max_abs(expected) << ")";
}

/// Rows of two matrices that differ in any bit.
inline int64_t rows_that_differ(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0) return 0;
  return a.ne(b).flatten(1).any(1).sum().item<int64_t>();
}

}  // namespace moe::testing
