#include "eval/load_statistics.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(LoadStatisticsTest, DeadExpertsAreThoseWithoutAnyToken) {
  EXPECT_EQ(dead_expert_fraction({{3, 0, 1, 4}, {0, 0, 7, 1}}), 3.0 / 8);
  EXPECT_EQ(dead_expert_fraction({{1, 1}}), 0);
  EXPECT_EQ(dead_expert_fraction({}), 0) << "a dense model";
  EXPECT_EQ(dead_expert_fraction({{}, {3, 0, 1, 4}, {}}), 1.0 / 4) << "dense layers have no experts";
}

TEST(LoadStatisticsTest, MaxOverMeanIsOfTheWorstLayer) {
  EXPECT_EQ(load_max_over_mean({{5, 5, 5, 5}}), 1);
  EXPECT_EQ(load_max_over_mean({{5, 5, 5, 5}, {2, 6, 0, 0}}), 3);
  EXPECT_EQ(load_max_over_mean({{0, 0}}), 0);
  EXPECT_EQ(load_max_over_mean({{}, {2, 6, 0, 0}}), 3);
  EXPECT_EQ(load_max_over_mean({}), 0);
  EXPECT_EQ(load_min_over_mean({{5, 5, 5, 5}}), 1);
  EXPECT_EQ(load_min_over_mean({{5, 5, 5, 5}, {2, 6, 3, 1}}), 1.0 / 3);
  EXPECT_EQ(load_min_over_mean({{}, {2, 6, 0, 0}}), 0);
  EXPECT_EQ(load_min_over_mean({{0, 0}}), 1);
  EXPECT_EQ(load_min_over_mean({}), 1);
}

}  // namespace
}  // namespace moe
