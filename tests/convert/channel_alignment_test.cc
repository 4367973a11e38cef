// Statistics by channel, and what makes those of one output those of another, against their definitions.
#include "convert/channel_alignment.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using testing::near;

/// Seven tokens in three rows of text, of which each rank has some.
struct Text {
  at::Tensor y_TD;
  std::vector<int64_t> begin{0, 3, 4, 7};

  TextRows rows(int64_t first, int64_t last) const {
    TextRows rows{.tokens_T = {},
                  .labels_T = {},
                  .cu_seqlens = {},
                  .first_row = first,
                  .row_begin = {},
                  .first_token = begin[first],
                  .total_tokens = 7};
    for (int64_t row = first; row <= last; ++row) rows.row_begin.push_back(begin[row] - begin[first]);
    return rows;
  }
  at::Tensor of(int64_t first, int64_t last) const { return y_TD.slice(0, begin[first], begin[last]); }
};

TEST(ChannelStatisticsTest, AreThoseOfAllTokens) {
  const Text text{
      at::tensor({1., 10., 2., 10., 6., 10., -1., 10., 0., 10., 3., 10., 3., 10.}, at::kFloat).view({7, 2})};
  const ChannelStatistics found = channel_statistics(text.of(0, 3), text.rows(0, 3), *make_self_communicator());
  // Of 1 2 6 -1 0 3 3: sum 14, squares 60.
  EXPECT_TRUE(near(found.mean_D, at::tensor({2., 10.}, at::kDouble), 1e-12));
  EXPECT_TRUE(near(found.variance_D, at::tensor({60. / 7 - 4, 0.}, at::kDouble), 1e-12));
}

/// Far from zero, where the mean of squares less the square of the mean has no digit left in float.
TEST(ChannelStatisticsTest, OfALargeMeanAreNotCancelled) {
  const Text text{at::tensor({4096., 4097., 4096., 4097., 4096., 4097., 4096.}, at::kFloat).view({7, 1})};
  const ChannelStatistics found = channel_statistics(text.of(0, 3), text.rows(0, 3), *make_self_communicator());
  EXPECT_NEAR(found.variance_D[0].item<double>(), 3. / 7 * 4 / 7, 1e-12);
}

TEST(ChannelStatisticsTest, RanksDoNotChangeTheBits) {
  const Text text{testing::random_normal({7, 5}, 3, at::kFloat)};
  const ChannelStatistics whole = channel_statistics(text.of(0, 3), text.rows(0, 3), *make_self_communicator());
  // Of four ranks one has no row.
  const std::vector<std::vector<int64_t>> begins{{0, 2, 3}, {0, 1, 1, 2, 3}};
  for (const std::vector<int64_t>& begin : begins) {
    testing::run_ranks(static_cast<int>(begin.size()) - 1, [&](Communicator& world) {
      const int64_t first = begin[world.rank()], last = begin[world.rank() + 1];
      const ChannelStatistics found = channel_statistics(text.of(first, last), text.rows(first, last), world);
      EXPECT_TRUE(at::equal(found.mean_D, whole.mean_D));
      EXPECT_TRUE(at::equal(found.variance_D, whole.variance_D));
    });
  }
}

at::Tensor doubles(std::initializer_list<double> values) {
  return at::tensor(std::vector<double>(values), at::kDouble);
}

TEST(ChannelAlignmentTest, BringsVarianceAloneOrMeanToo) {
  const ChannelStatistics dense{doubles({1, -2}), doubles({4, 9})}, converted{doubles({3, 0.5}), doubles({16, 1})};
  const ChannelAlignment variance = alignment_to(dense, converted, {}, "variance"),
                         both = alignment_to(dense, converted, {}, "mean_variance");
  EXPECT_TRUE(near(variance.factor_D, doubles({0.5, 3}), 1e-15));
  EXPECT_FALSE(variance.output_bias_D.defined());
  EXPECT_TRUE(near(both.factor_D, doubles({0.5, 3}), 1e-15));
  EXPECT_TRUE(near(both.output_bias_D, doubles({1 - 0.5 * 3, -2 - 3 * 0.5}), 1e-15));
  const at::Tensor y = doubles({7, 1}).unsqueeze(0);
  EXPECT_TRUE(near(variance.align(y, {}), doubles({3.5, 3}).unsqueeze(0), 1e-15));
  EXPECT_TRUE(near(both.align(y, {}), doubles({3, -0.5}).unsqueeze(0), 1e-15));
  EXPECT_TRUE(
      near(both.scale_rows(at::ones({2, 3}, at::kFloat)), doubles({0.5, 0.5, 0.5, 3, 3, 3}).view({2, 3}), 1e-15));
}

/// What is added once per token is no output of the projections: it is not scaled, and is replaced as a whole.
TEST(ChannelAlignmentTest, ABiasThatIsThereIsNotScaled) {
  const at::Tensor bias = doubles({2}), y = doubles({7}).unsqueeze(0);
  const ChannelStatistics dense{doubles({1}), doubles({4})}, converted{doubles({3}), doubles({16})};
  EXPECT_TRUE(
      near(alignment_to(dense, converted, bias, "variance").align(y, bias), doubles({4.5}).unsqueeze(0), 1e-15));
  const ChannelAlignment both = alignment_to(dense, converted, bias, "mean_variance");
  EXPECT_TRUE(near(both.output_bias_D, doubles({1 - 0.5 * (3 - 2)}), 1e-15));
  EXPECT_TRUE(near(both.align(y, bias), doubles({0.5 * 5 + 0.5}).unsqueeze(0), 1e-15));
}

TEST(ChannelAlignmentTest, AChannelThatHardlyVariesKeepsItsFactor) {
  const ChannelStatistics dense{doubles({1, 0, 5, 0}), doubles({4, 0, 1, 0})},
      converted{doubles({3, 0, 2, 1}), doubles({1e-13, 0, 1e-11, 4})};
  const ChannelAlignment found = alignment_to(dense, converted, {}, "mean_variance");
  EXPECT_EQ(found.kept_channels, 2);
  EXPECT_EQ(found.factor_D[0].item<double>(), 1);
  EXPECT_EQ(found.factor_D[1].item<double>(), 1);
  EXPECT_NEAR(found.factor_D[2].item<double>(), std::sqrt(1e11), 1);
  EXPECT_EQ(found.factor_D[3].item<double>(), 0) << "the dense layer gives a constant there";
  EXPECT_EQ(found.output_bias_D[0].item<double>(), -2);
  EXPECT_EQ(found.describe()["kept_channels"], 2);
}

}  // namespace
}  // namespace moe
