#include "worker/progress.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace moe {
namespace {

TEST(ProgressTest, DurationsReadNaturally) {
  EXPECT_EQ(format_duration(0.4), "0 s");
  EXPECT_EQ(format_duration(59.2), "59 s");
  EXPECT_EQ(format_duration(60), "1 min 00 s");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_duration(3720), "1 h 02 min");
}

TEST(ProgressTest, PlainLinesComeAtEveryTenthAndNotMore) {
  ::testing::internal::CaptureStderr();
  {
    ProgressLine line(true);
    for (int64_t step = 1; step <= 100; ++step)
      line.update({.stage = "train", .step = step, .steps = 100, .loss = 2.5});
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 11) << text;
  EXPECT_NE(text.find("train  step 100/100  loss 2.5000"), std::string::npos) << text;
}

TEST(ProgressTest, OtherRanksAreSilent) {
  ::testing::internal::CaptureStderr();
  ProgressLine line(false);
  line.update({.stage = "train", .step = 1, .steps = 1});
  line.message("hello");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace moe
