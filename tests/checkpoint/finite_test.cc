#include "checkpoint/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moe {
namespace {

TEST(FiniteTest, CountsInEveryWeightTypeAndOfEveryStride) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    at::Tensor matrix = at::full({6, 5000}, 60000.0, type);
    EXPECT_EQ(count_non_finite(matrix), 0) << type;
    matrix[1][7] = std::nan("");
    matrix[5][2] = std::numeric_limits<double>::infinity();
    matrix[5][4999] = -std::numeric_limits<double>::infinity();
    EXPECT_EQ(count_non_finite(matrix), 3) << type;
    // The part of a wider tensor that a stock mixture holds.
    EXPECT_EQ(count_non_finite(matrix.narrow(1, 0, 4)), 1) << type;
    EXPECT_EQ(count_non_finite(matrix.narrow(1, 8, 100)), 0) << type;
  }
  EXPECT_EQ(count_non_finite(at::ones({3}, at::kInt)), 0);
}

}  // namespace
}  // namespace moe
