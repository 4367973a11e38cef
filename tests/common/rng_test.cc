#include "common/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace moe {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(PhiloxTest, MatchesKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRngTest, DependsOnSeedStreamAndSubstreamAlone) {
  CounterRng first(7, kStreamTest, 3), again(7, kStreamTest, 3), other(7, kStreamTest, 4);
  bool all_equal = true;
  for (int i = 0; i < 100; ++i) {
    const uint64_t draw = first.next_u64();
    EXPECT_EQ(draw, again.next_u64());
    all_equal = all_equal && draw == other.next_u64();
  }
  EXPECT_FALSE(all_equal);
}

TEST(CounterRngTest, MomentsOfUniformAndNormal) {
  CounterRng rng(1, kStreamTest);
  double sum = 0, normal_sum = 0, normal_squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    sum += rng.uniform();
    const double x = rng.normal();
    normal_sum += x;
    normal_squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(normal_sum / n, 0.0, 0.015);
  EXPECT_NEAR(normal_squares / n, 1.0, 0.02);
}

TEST(RandomPermutationTest, IsAPermutationAndUniformInItsFirstElement) {
  std::vector<int> first_counts(8);
  for (uint32_t trial = 0; trial < 8000; ++trial) {
    auto order = random_permutation(8, CounterRng(5, kStreamTest, trial));
    ++first_counts[order[0]];
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < 8; ++i) ASSERT_EQ(order[i], i);
  }
  for (const int count : first_counts) EXPECT_NEAR(count, 1000, 150);
}

}  // namespace
}  // namespace moe
