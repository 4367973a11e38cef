#include "convert/ridge_regression.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <tuple>

#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

at::Tensor random_matrix(int64_t rows, int64_t columns, uint32_t stream) {
  return testing::random_normal({rows, columns}, 5, at::kFloat, stream);
}

/// Samples, coordinates, outputs: more and fewer samples than coordinates, sizes around those of tiles and panels.
using Shape = std::tuple<int64_t, int64_t, int64_t>;
class RidgeRegressionTest : public ::testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, RidgeRegressionTest,
                         ::testing::Values(Shape{50, 7, 3}, Shape{9, 32, 1}, Shape{400, 64, 8}, Shape{300, 129, 5},
                                           Shape{90, 200, 130}));

/// The minimum of the penalised sum by LAPACK, of the stacked least-squares problem: no normal equations.
TEST_P(RidgeRegressionTest, IsTheMinimum) {
  const auto [samples, coordinates, outputs] = GetParam();
  for (const double ridge : {1e-3, 0.5}) {
    const at::Tensor x = random_matrix(samples, coordinates, 1) * 3 + 1, y = random_matrix(samples, outputs, 2);
    const at::Tensor x64 = x.to(at::kDouble), y64 = y.to(at::kDouble);
    const double penalty = ridge * x64.square().sum().item<double>() / static_cast<double>(coordinates);
    const at::Tensor stacked = at::cat({x64, at::eye(coordinates, at::kDouble) * std::sqrt(penalty)}),
                     wanted = at::cat({y64, at::zeros({coordinates, outputs}, at::kDouble)});
    const at::Tensor expected = std::get<0>(at::linalg_lstsq(stacked, wanted)).t();
    EXPECT_TRUE(testing::near(ridge_regression(x, y, ridge), expected, 1e-6)) << ridge;
  }
}

TEST(RidgeRegressionTest, ThreadsDoNotChangeABit) {
  const at::Tensor x = random_matrix(300, 200, 1), y = random_matrix(300, 70, 2);
  const int threads = at::get_num_threads();
  const at::Tensor many = ridge_regression(x, y, 1e-3);
  at::set_num_threads(1);
  const at::Tensor one = ridge_regression(x, y, 1e-3);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(many, one));
}

TEST(RidgeRegressionTest, NothingToLearnFromGivesZeros) {
  EXPECT_TRUE(at::equal(ridge_regression(at::zeros({5, 3}), at::ones({5, 2}), 1e-3), at::zeros({2, 3})));
}

}  // namespace
}  // namespace moe
