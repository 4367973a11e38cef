#include "train/lr_schedule.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(LrScheduleTest, GoldenNumbersOfThePaper) {
  const LrSchedule schedule{.peak = 2e-4, .floor = 0.1, .warmup_steps = 100, .steps = 13623};
  const std::pair<int64_t, double> expected[] = {
      {0, 0}, {50, 1e-4}, {100, 2e-4}, {6861, 1.000116e-4}, {10000, 3.337864e-5}, {10854, 2e-5}, {13623, 2e-5}};
  for (const auto& [step, rate] : expected) EXPECT_NEAR(learning_rate(schedule, step), rate, 5e-11) << "step " << step;
}

TEST(LrScheduleTest, RisesThenFallsAndNeverLeavesItsBounds) {
  const LrSchedule schedule{.peak = 1, .floor = 0.25, .warmup_steps = 7, .steps = 60};
  for (int64_t step = 1; step <= 80; ++step) {
    const double before = learning_rate(schedule, step - 1), now = learning_rate(schedule, step);
    if (step <= 7) {
      EXPECT_NEAR(now - before, 1.0 / 7, 1e-12);
    } else {
      EXPECT_LE(now, before);
      EXPECT_GE(now, 0.25);
    }
  }
  EXPECT_EQ(learning_rate(schedule, 60), 0.25);
  EXPECT_EQ(learning_rate(schedule, 1000), 0.25) << "past the end it stays";
}

TEST(LrScheduleTest, WithoutWarmupItStartsAtThePeakAndWithoutFloorEndsAtZero) {
  const LrSchedule schedule{.peak = 0.5, .floor = 0, .warmup_steps = 0, .steps = 10};
  EXPECT_EQ(learning_rate(schedule, 0), 0.5);
  EXPECT_NEAR(learning_rate(schedule, 5), 0.25, 1e-15);
  EXPECT_NEAR(learning_rate(schedule, 10), 0, 1e-15);
  const LrSchedule only_warmup{.peak = 0.5, .floor = 0, .warmup_steps = 10, .steps = 10};
  EXPECT_EQ(learning_rate(only_warmup, 9), 0.45);
  EXPECT_EQ(learning_rate(only_warmup, 10), 0.5);
}

}  // namespace
}  // namespace moe
