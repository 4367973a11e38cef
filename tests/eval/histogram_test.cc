#include "eval/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "testing/run_ranks.h"

namespace moe {
namespace {

using nlohmann::json;

TEST(HistogramTest, BinsAreClosedBelowAndOpenAbove) {
  Histogram histogram(-1, 1, 4);
  for (const double value : {-1.0, -0.5, -0.25, 0.0, 0.49, 0.5, std::nextafter(1.0, 0.0)}) histogram.add(value);
  EXPECT_EQ(histogram.to_json()["counts"], json({1, 2, 2, 2}));
  histogram.add(1);
  histogram.add(std::numeric_limits<double>::infinity());
  histogram.add(std::nextafter(-1.0, -2.0));
  histogram.add(std::nan(""));
  EXPECT_EQ(histogram.to_json()["above"], 2);
  EXPECT_EQ(histogram.to_json()["below"], 2);
  EXPECT_EQ(histogram.total(), 11);
}

// Of 0.1, bins whose ends are no numbers of binary.
TEST(HistogramTest, AValueJustBelowTheEndIsInTheLastBin) {
  Histogram histogram(0, 0.1, 1000);
  histogram.add(std::nextafter(0.1, 0.0));
  EXPECT_EQ(histogram.to_json()["counts"][999], 1);
}

TEST(HistogramTest, RanksAddUp) {
  testing::run_ranks(3, [](Communicator& world) {
    Histogram first(0, 2, 2), second(0, 1, 1);
    first.add(1.5);
    for (int i = 0; i < world.rank(); ++i) second.add(7);
    Histogram::sum_over_ranks({&first, &second}, world);
    EXPECT_EQ(first.to_json()["counts"], json({0, 3}));
    EXPECT_EQ(second.to_json()["above"], 3);
  });
}

}  // namespace
}  // namespace moe
