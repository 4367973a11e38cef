#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

/// First-fit-decreasing as a text book has it, O(n^2).
std::vector<std::vector<int64_t>> pack_naively(const std::vector<int64_t>& lengths, int64_t capacity) {
  std::vector<std::pair<int64_t, int64_t>> order;  // (-length, sample)
  for (size_t i = 0; i < lengths.size(); ++i) order.emplace_back(-lengths[i], static_cast<int64_t>(i));
  std::sort(order.begin(), order.end());
  std::vector<std::vector<int64_t>> rows;
  std::vector<int64_t> room;
  for (const auto& [negative, sample] : order) {
    size_t row = 0;
    while (row < rows.size() && room[row] < lengths[sample]) ++row;
    if (row == rows.size()) {
      rows.emplace_back();
      room.push_back(capacity);
    }
    rows[row].push_back(sample);
    room[row] -= lengths[sample];
  }
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::vector<int64_t> random_lengths(CounterRng& rng, int64_t count, int64_t longest) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) lengths.push_back(static_cast<int64_t>(1 + rng.below(longest)));
  return lengths;
}

TEST(PackingTest, IsFirstFitDecreasing) {
  CounterRng rng(4, kStreamTest);
  for (int trial = 0; trial < 300; ++trial) {
    const auto capacity = static_cast<int64_t>(1 + rng.below(60));
    const std::vector<int64_t> lengths = random_lengths(rng, static_cast<int64_t>(rng.below(80)), capacity);
    ASSERT_EQ(pack_first_fit_decreasing(lengths, capacity), pack_naively(lengths, capacity)) << "trial " << trial;
  }
}

TEST(PackingTest, FillsRows) {
  CounterRng rng(3, kStreamTest);
  const std::vector<int64_t> lengths = random_lengths(rng, 4096, 300);
  const auto rows = pack_first_fit_decreasing(lengths, 512);
  const double tokens = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
  EXPECT_GT(tokens / (512.0 * static_cast<double>(rows.size())), 0.99);
}

TEST(PackingTest, RefusesASampleThatFitsNoRow) {
  EXPECT_THROW(pack_first_fit_decreasing({3, 9}, 8), Internal);
  EXPECT_THROW(pack_first_fit_decreasing({0}, 8), Internal);
  EXPECT_TRUE(pack_first_fit_decreasing({}, 8).empty());
}

}  // namespace
}  // namespace moe
