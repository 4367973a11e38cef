#include "convert/top_probability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "common/error.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

constexpr int64_t kTokens = 210, kExperts = 6;

at::Tensor logits() {
  return testing::random_normal({kTokens, kExperts}, 3, at::kFloat) * 40;
}

TEST(TopProbabilityTest, TheFactorReachesTheTarget) {
  for (const double target : {0.17, 0.5, 0.99}) {
    const double factor = factor_to_top_probability(logits(), target, "a test", *make_self_communicator());
    const at::Tensor p_TE = at::softmax(logits().to(at::kDouble) * factor, 1);
    EXPECT_NEAR(std::get<0>(p_TE.max(1)).mean().item<double>(), target, 1e-9);
  }
  // Above 1, where the search begins.
  const double small = factor_to_top_probability(logits() * 1e-6, 0.5, "a test", *make_self_communicator());
  EXPECT_NEAR(small / factor_to_top_probability(logits(), 0.5, "a test", *make_self_communicator()), 1e6, 10);
}

TEST(TopProbabilityTest, RanksDoNotChangeABit) {
  const double one = factor_to_top_probability(logits(), 0.6, "a test", *make_self_communicator());
  for (const int ranks : {2, 3}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      const int64_t first = kTokens * world.rank() * world.rank() / (ranks * ranks),
                    last = kTokens * (world.rank() + 1) * (world.rank() + 1) / (ranks * ranks);
      EXPECT_EQ(factor_to_top_probability(logits().slice(0, first, last), 0.6, "a test", world), one) << ranks;
    });
  }
}

/// Two experts of which neither ever has more than half.
TEST(TopProbabilityTest, WhatNoFactorReachesIsRefusedOnEveryRank) {
  at::Tensor twins = logits();
  twins.slice(1, 0, 2).fill_(1000);
  for (const double target : {0.1, 1.0 / kExperts, 0.5, 0.6}) {
    std::atomic<int> refused = 0;
    testing::run_ranks(2, [&](Communicator& world) {
      try {
        factor_to_top_probability(twins, target, "router.options.x", world);
      } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("convert: router.options.x is "),
                                                   ::testing::HasSubstr("between 0.166667 and 0.5")));
        ++refused;
      }
    });
    EXPECT_EQ(refused, 2) << target;
  }
}

}  // namespace
}  // namespace moe
