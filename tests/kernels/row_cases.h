#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <tuple>

#include "kernels/test_matrix.h"

/// The cases of operations on rows: device x dtype x shape.
namespace moe::kernels::testing {

struct RowShape {
  int64_t rows, cols;
};
inline void PrintTo(const RowShape& shape, std::ostream* out) {
  *out << "rows " << shape.rows << " cols " << shape.cols;
}
using RowCase = std::tuple<DeviceType, DType, RowShape>;

class RowCaseTest : public ::testing::TestWithParam<RowCase> {};

inline std::string row_case_name(const ::testing::TestParamInfo<RowCase>& info) {
  const auto& [device, dtype, shape] = info.param;
  return name_of(device) + name_of(dtype) + "R" + std::to_string(shape.rows) + "C" + std::to_string(shape.cols);
}

/// One row, no multiple of a vector or of a block of rows, more than one block, wide enough for two threads.
inline auto row_cases(DeviceType device) {
  return ::testing::Combine(
      ::testing::Values(device), ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64),
      ::testing::Values(RowShape{0, 8}, RowShape{1, 1}, RowShape{5, 43}, RowShape{37, 64}, RowShape{130, 257}));
}

/// random_values times a power of two: still exact in every dtype.
inline std::vector<double> scaled_values(int64_t count, DType dtype, uint64_t seed, double scale) {
  std::vector<double> values = random_values(count, dtype, seed);
  for (double& value : values) value *= scale;
  return values;
}

}  // namespace moe::kernels::testing
