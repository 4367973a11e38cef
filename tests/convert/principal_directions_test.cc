#include "convert/principal_directions.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <tuple>

#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

/// Each column narrower than the one before, about a mean that is longer than all of them. [n, D]
at::Tensor rows_about_a_mean(int64_t rows, int64_t width) {
  const at::Tensor widths = at::pow(0.9, at::arange(width, at::kFloat)),
                   turn = std::get<0>(at::linalg_qr(testing::random_normal({width, width}, 7, at::kFloat)));
  return at::matmul(testing::random_normal({rows, width}, 5, at::kFloat) * widths, turn) +
         3 * testing::random_normal({width}, 6, at::kFloat);
}

/// Right singular vectors of the rows less their mean: no covariance.
at::Tensor by_svd(const at::Tensor& rows_nD, int64_t count, bool across_mean) {
  const at::Tensor x = rows_nD.to(at::kDouble), mean = x.mean(0);
  at::Tensor centred = x - mean;
  if (across_mean) centred = centred - at::outer(at::mv(centred, mean), mean) / mean.dot(mean);
  at::Tensor directions = std::get<2>(at::linalg_svd(centred, /*full_matrices=*/false)).slice(0, 0, count).clone();
  for (at::Tensor row : directions.unbind(0)) {
    if (-row.min().item<double>() > row.max().item<double>()) row.neg_();
  }
  return directions;
}

TEST(PrincipalDirectionsTest, AreSingularVectorsOfCentredRows) {
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{300, 20}, {40, 70}}) {
    const at::Tensor x = rows_about_a_mean(rows, width);
    for (const bool across_mean : {false, true}) {
      const at::Tensor found = principal_directions(x, 12, across_mean, *make_self_communicator());
      EXPECT_TRUE(testing::near(found, by_svd(x, 12, across_mean), 1e-6)) << rows << " " << across_mean;
    }
  }
}

TEST(PrincipalDirectionsTest, AcrossTheMeanProductsAreAboutZero) {
  const at::Tensor x = rows_about_a_mean(300, 20);
  const auto greatest_mean = [&x](bool across_mean) {
    const at::Tensor found = principal_directions(x, 6, across_mean, *make_self_communicator());
    return testing::max_abs(at::matmul(x.to(at::kDouble), found.to(at::kDouble).t()).mean(0));
  };
  EXPECT_GT(greatest_mean(false), 1);
  EXPECT_LT(greatest_mean(true), 1e-5);
}

/// So many that the last ones are of nearly equal variance, where a last bit of LAPACK's is many of theirs.
TEST(PrincipalDirectionsTest, NeitherRanksNorThreadsChangeABit) {
  const at::Tensor x = rows_about_a_mean(300, 150);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = principal_directions(x, 100, true, *make_self_communicator());
  at::set_num_threads(4);
  const at::Tensor many = principal_directions(x, 100, true, *make_self_communicator());
  EXPECT_EQ(at::get_num_threads(), 4) << "as before";
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(many, one));
  testing::run_ranks(3, [&](Communicator& world) {
    EXPECT_TRUE(at::equal(principal_directions(x, 100, true, world), one)) << world.rank();
  });
}

TEST(PrincipalDirectionsTest, AreAsManyAsThereAre) {
  at::Tensor x = at::zeros({50, 10});
  x.slice(1, 0, 3).copy_(testing::random_normal({50, 3}, 5, at::kFloat));
  x.select(1, 5).fill_(2);
  const auto count = [](const at::Tensor& rows, int64_t most, bool across_mean) {
    return principal_directions(rows, most, across_mean, *make_self_communicator()).size(0);
  };
  for (const bool across_mean : {false, true}) {
    EXPECT_EQ(count(x, 7, across_mean), 3);
    EXPECT_EQ(count(x, 2, across_mean), 2);
    EXPECT_EQ(count(at::full({20, 4}, 0.1), 3, across_mean), 0) << "equal rows";
  }
  EXPECT_EQ(count(rows_about_a_mean(50, 8), 9, false), 8);
  EXPECT_EQ(count(rows_about_a_mean(50, 8), 9, true), 7) << "less the mean's";
  EXPECT_EQ(count(rows_about_a_mean(5, 8), 8, false), 4) << "less than rows";
}

}  // namespace
}  // namespace moe
