#include "metrics/router_load.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe {
namespace {

TEST(RouterLoadTest, EvenLoadIsOneEverywhere) {
  const RouterLoad load = router_load({50, 50, 50, 50});
  EXPECT_DOUBLE_EQ(load.max_ratio, 1);
  EXPECT_DOUBLE_EQ(load.min_ratio, 1);
  EXPECT_DOUBLE_EQ(load.cv, 0);
  EXPECT_DOUBLE_EQ(load.entropy_ratio, 1);
  EXPECT_EQ(load.dead_experts, 0);
}

TEST(RouterLoadTest, UnevenLoadByHand) {
  // mean 4, deviations 4, 0, -2, -2 (squares 16 + 0 + 4 + 4 = 24, /4 = 6); shares 1/2, 1/4, 1/8, 1/8: H = 1.75 ln 2.
  const RouterLoad load = router_load({8, 4, 2, 2});
  EXPECT_DOUBLE_EQ(load.max_ratio, 2);
  EXPECT_DOUBLE_EQ(load.min_ratio, 0.5);
  EXPECT_DOUBLE_EQ(load.cv, std::sqrt(6.0) / 4);
  EXPECT_NEAR(load.entropy_ratio, 1.75 / 2, 1e-15);
  EXPECT_EQ(load.dead_experts, 0);
}

TEST(RouterLoadTest, OneExpertTakesAll) {
  const RouterLoad load = router_load({0, 12, 0});
  EXPECT_DOUBLE_EQ(load.max_ratio, 3);
  EXPECT_DOUBLE_EQ(load.min_ratio, 0);
  EXPECT_DOUBLE_EQ(load.cv, std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(load.entropy_ratio, 0);
  EXPECT_EQ(load.dead_experts, 2);
}

TEST(RouterLoadTest, NoTokensAndNoExperts) {
  const RouterLoad silent = router_load({0, 0});
  EXPECT_DOUBLE_EQ(silent.max_ratio, 0);
  EXPECT_DOUBLE_EQ(silent.entropy_ratio, 0);
  EXPECT_EQ(silent.dead_experts, 2);
  EXPECT_EQ(router_load({}).dead_experts, 0);
  EXPECT_DOUBLE_EQ(router_load({7}).entropy_ratio, 1);
}

}  // namespace
}  // namespace moe
