#include "eval/token_sample.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "testing/run_ranks.h"

namespace moe {
namespace {

/// 40 rows of 10 tokens, the last five rows of the second domain, row r on rank r mod ranks; on every rank.
std::vector<SampledToken> drawn_on(int ranks, size_t most) {
  std::vector<SampledToken> found;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](Communicator& world) {
    TokenSample sample(2, most);
    for (int64_t row = world.rank(); row < 40; row += ranks) {
      for (int64_t token = 0; token < 10; ++token) {
        const double values[2] = {static_cast<double>(row), static_cast<double>(token)};
        sample.offer(row, row < 35 ? 0 : 1, token, values, 2, 100 * row + token);
      }
    }
    std::vector<SampledToken> mine = sample.drawn(2, world);
    const std::lock_guard<std::mutex> lock(mutex);
    found = std::move(mine);
  });
  return found;
}

TEST(TokenSampleTest, DrawsAsManyOfEachDomainAndTheSameOnAnyRanks) {
  const std::vector<SampledToken> one = drawn_on(1, 30), three = drawn_on(3, 30);
  ASSERT_EQ(one.size(), 60U);
  ASSERT_EQ(three.size(), 60U);
  std::set<int64_t> rows;
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].domain, i < 30 ? 0 : 1);
    EXPECT_EQ(three[i].label, one[i].label);
    EXPECT_EQ(one[i].label, 100 * one[i].row + one[i].token);
    EXPECT_EQ(one[i].values, (std::vector<float>{static_cast<float>(one[i].row), static_cast<float>(one[i].token)}));
    rows.insert(one[i].row);
  }
  EXPECT_GT(rows.size(), 15U) << "from all over the text";
}

TEST(TokenSampleTest, DrawsAllOfADomainThatHasNoMore) {
  EXPECT_EQ(drawn_on(2, 100).size(), 150U);
}

}  // namespace
}  // namespace moe
