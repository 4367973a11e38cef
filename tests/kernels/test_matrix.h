#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device_memory.h"
#include "kernels/views.h"

/// What the tests of kernels share: matrices on either device whose values are known as doubles, and the one table of
/// tolerances.
namespace moe::kernels {

/// For the names under which CTest lists the cases.
void PrintTo(DeviceType device, std::ostream* out);
void PrintTo(DType dtype, std::ostream* out);

}  // namespace moe::kernels

namespace moe::kernels::testing {

/// |got - expected| <= sum_error * (sum of the terms' magnitudes) + rounding * |expected|.
struct Tolerance {
  double sum_error;  // of adding up, in the type that sums are kept in
  double rounding;   // of the result to its dtype
};
inline Tolerance tolerance(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return {2e-6, 0};
    case DType::kBFloat16: return {2e-6, 1.0 / 256};
    case DType::kFloat64: return {1e-14, 0};
  }
  return {};
}

/// What a result should be, computed in double, and the magnitude of what it was summed up from.
struct Expected {
  double value = 0;
  double magnitude = 0;
};
inline void add(Expected& sum, double term) {
  sum.value += term;
  sum.magnitude += std::abs(term);
}

/// Fails the test with the worst element where one is further off than the table allows for results of `dtype`.
void expect_close(const std::string& what, const std::vector<double>& got, const std::vector<Expected>& expected,
                  DType dtype);

std::string name_of(DeviceType device);
std::string name_of(DType dtype);

/// `value` rounded to dtype.
double rounded(double value, DType dtype);

/// `count` seeded values in [-1, 1), rounded to dtype.
std::vector<double> random_values(int64_t count, DType dtype, uint64_t seed);

/// A matrix [rows, cols] whose rows lie `padding` elements further apart than they are long. The padding holds a
/// marker, so that a kernel that writes there is caught.
class TestMatrix {
 public:
  /// Without `values` every element is the marker.
  TestMatrix(DeviceType device, DType dtype, int64_t rows, int64_t cols, int64_t padding,
             const std::vector<double>& values = {});

  MatrixView view();

  /// All elements of a matrix without padding.
  VectorView vector();

  /// Rows [first, first + count).
  MatrixView rows(int64_t first, int64_t count);

  /// All elements, row by row; fails the test if the padding was written.
  std::vector<double> values();

  /// The same as they lie in memory, without padding, to compare bits.
  std::vector<char> bytes();

 private:
  DType dtype_;
  int64_t rows_, cols_, stride_;
  std::unique_ptr<DeviceMemory> memory_;
};

/// An array of T on the device.
template <typename T>
class TestArray {
 public:
  TestArray(DeviceType device, const std::vector<T>& values)
      : size_(values.size()), memory_(allocate(device, size_ * sizeof(T))) {
    memory_->write(values.data(), size_ * sizeof(T));
  }
  T* data() { return static_cast<T*>(memory_->data()); }
  std::vector<T> values() {
    std::vector<T> out(size_);
    memory_->read(out.data(), size_ * sizeof(T));
    return out;
  }

 private:
  size_t size_;
  std::unique_ptr<DeviceMemory> memory_;
};

/// Skips, and says why, where the device under test is absent.
#define MOE_SKIP_WITHOUT(device)                                                                               \
  if (::moe::kernels::testing::device_count(device) == 0) {                                                    \
    GTEST_SKIP()                                                                                               \
        << "no CUDA device on this machine (or a build without CUDA): the CUDA half of this test did not run"; \
  }                                                                                                            \
  static_assert(true)

}  // namespace moe::kernels::testing
