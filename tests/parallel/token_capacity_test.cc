// Which tokens experts drop: as many as they must, drawn evenly, the same on any layout. llama-moe-v1 2.5 and T13.
#include "parallel/token_capacity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "common/error.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

constexpr int64_t kExperts = 4;
constexpr NoiseSource kSource{.seed = 7, .step = 3, .first_token = 1000};

struct Result {
  at::Tensor kept_T;  ///< of all ranks
  int64_t dropped = 0;
};

/// Layer 2 of a micro-batch whose tokens chose `ids`, spread over ranks as `shares` says.
Result drop(const std::vector<int64_t>& ids, const std::vector<int64_t>& shares, double factor,
            const NoiseSource& source = kSource, int64_t layer = 2) {
  const auto ranks = static_cast<int>(shares.size());
  std::vector<at::Tensor> kept(ranks);
  Result result;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](Communicator& world) {
    int64_t before = 0;
    for (int rank = 0; rank < world.rank(); ++rank) before += shares[rank];
    const at::Tensor mine = at::tensor(ids, at::kLong).narrow(0, before, shares[world.rank()]);
    TokenCapacity capacity(factor, world);
    capacity.begin(source, static_cast<int64_t>(ids.size()), before);
    const at::Tensor here = capacity.kept(mine, kExperts, layer);
    const std::lock_guard<std::mutex> lock(mutex);
    kept[world.rank()] = here;
    if (world.rank() == 0) result.dropped = capacity.dropped();
    EXPECT_TRUE(world.rank() == 0 || result.dropped == 0 || result.dropped == capacity.dropped());
  });
  result.kept_T = at::cat(kept);
  return result;
}

/// 100 tokens: 62 of expert 0, 30 of expert 2, 8 of expert 3, none of expert 1, mixed.
std::vector<int64_t> skewed() {
  std::vector<int64_t> ids;
  for (int64_t t = 0; t < 100; ++t) ids.push_back((37 * t) % 100 < 62 ? 0 : (37 * t) % 100 < 92 ? 2 : 3);
  return ids;
}

int64_t kept_of(const Result& result, const std::vector<int64_t>& ids, int64_t expert) {
  int64_t count = 0;
  for (size_t t = 0; t < ids.size(); ++t)
    count += ids[t] == expert && result.kept_T[static_cast<int64_t>(t)].item<bool>() ? 1 : 0;
  return count;
}

TEST(TokenCapacityTest, EveryExpertKeepsWhatItHasRoomForAndTheTotalIsExact) {
  const std::vector<int64_t> ids = skewed();
  // floor(1.25 * 100 / 4) = 31.
  const Result result = drop(ids, {100}, 1.25);
  EXPECT_EQ(kept_of(result, ids, 0), 31);
  EXPECT_EQ(kept_of(result, ids, 2), 30);
  EXPECT_EQ(kept_of(result, ids, 3), 8);
  EXPECT_EQ(result.dropped, 31);
  // floor(0.9 * 100 / 4) = 22: two experts are too full.
  const Result less = drop(ids, {100}, 0.9);
  EXPECT_EQ(kept_of(less, ids, 0), 22);
  EXPECT_EQ(kept_of(less, ids, 2), 22);
  EXPECT_EQ(less.dropped, 40 + 8);
  EXPECT_EQ(drop(ids, {100}, 4).dropped, 0);
  EXPECT_EQ(drop(ids, {100}, 0.01).dropped, 100) << "room for none";
  EXPECT_EQ(drop({}, {0}, 1.25).dropped, 0);
}

TEST(TokenCapacityTest, TheSameAreDroppedOnEveryLayout) {
  const std::vector<int64_t> ids = skewed();
  const Result single = drop(ids, {100}, 0.9);
  for (const std::vector<int64_t>& shares :
       {std::vector<int64_t>{50, 50}, {0, 100}, {34, 33, 33}, {25, 25, 25, 25}, {70, 0, 30, 0}}) {
    const Result spread = drop(ids, shares, 0.9);
    EXPECT_TRUE(at::equal(spread.kept_T, single.kept_T)) << shares.size() << " ranks";
    EXPECT_EQ(spread.dropped, single.dropped);
  }
  NoiseSource step = kSource, seed = kSource, place = kSource;
  step.step = 4;
  seed.seed = 8;
  place.first_token = 1001;
  for (const NoiseSource& other : {step, seed, place})
    EXPECT_FALSE(at::equal(drop(ids, {100}, 0.9, other).kept_T, single.kept_T));
  EXPECT_FALSE(at::equal(drop(ids, {100}, 0.9, kSource, 3).kept_T, single.kept_T)) << "another layer";
}

/// 8 tokens of one expert that takes 4 of them: each is kept in half of 2,000 steps, and each pair in 3/14 of them, but
/// for five standard errors.
TEST(TokenCapacityTest, EverySubsetIsAlikeLikely) {
  const std::vector<int64_t> ids(8, 1);
  at::Tensor together = at::zeros({8, 8}, at::kDouble);
  for (int64_t step = 0; step < 2000; ++step) {
    const at::Tensor kept = drop(ids, {8}, 2, {.seed = 1, .step = step}).kept_T.to(at::kDouble);
    ASSERT_EQ(kept.sum().item<double>(), 4);
    together += at::outer(kept, kept);
  }
  for (int64_t a = 0; a < 8; ++a) {
    EXPECT_NEAR(together[a][a].item<double>(), 1000, 5 * std::sqrt(2000 * 0.25)) << a;
    for (int64_t b = 0; b < a; ++b)
      EXPECT_NEAR(together[a][b].item<double>(), 2000 * 3 / 14., 5 * std::sqrt(2000 * (3 / 14.) * (11 / 14.)))
          << a << " and " << b;
  }
}

TEST(TokenCapacityTest, AMicroBatchOfOtherTokensIsTold) {
  testing::run_ranks(2, [](Communicator& world) {
    TokenCapacity capacity(1.25, world);
    capacity.begin(kSource, 7, world.rank() * 4);
    EXPECT_THROW(capacity.kept(at::zeros({4}, at::kLong), kExperts, 0), Internal);
  });
}

}  // namespace
}  // namespace moe
