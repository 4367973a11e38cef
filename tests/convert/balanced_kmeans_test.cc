#include "convert/balanced_kmeans.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "common/error.h"
#include "common/rng.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

/// `clusters` groups of `size` points around Gaussian centres, in a random order; `owner` tells the group of each
/// point.
at::Tensor planted(int64_t clusters, int64_t size, int64_t width, double spread, uint64_t seed,
                   std::vector<int32_t>& owner) {
  CounterRng rng(seed, kStreamTest);
  const std::vector<int64_t> order = random_permutation(clusters * size, rng);
  at::Tensor centres = at::empty({clusters, width}), rows = at::empty({clusters * size, width});
  for (int64_t i = 0; i < centres.numel(); ++i) centres.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
  owner.assign(clusters * size, 0);
  for (int64_t i = 0; i < clusters * size; ++i) {
    owner[i] = static_cast<int32_t>(order[i] % clusters);
    for (int64_t d = 0; d < width; ++d) {
      rows.mutable_data_ptr<float>()[i * width + d] =
          centres.const_data_ptr<float>()[owner[i] * width + d] + static_cast<float>(spread * rng.normal());
    }
  }
  return rows;
}

KMeansResult on_one(const at::Tensor& rows, const KMeansOptions& options) {
  return balanced_kmeans(rows, options, *make_self_communicator());
}

std::map<int32_t, int64_t> sizes_of(const std::vector<int32_t>& cluster_of) {
  std::map<int32_t, int64_t> sizes;
  for (const int32_t cluster : cluster_of) ++sizes[cluster];
  return sizes;
}

/// Sum of squared distances to the members' means, in double.
double inertia_of(const at::Tensor& rows, const std::vector<int32_t>& cluster_of) {
  const at::Tensor points = rows.to(at::kDouble);
  double sum = 0;
  for (const auto& [cluster, size] : sizes_of(cluster_of)) {
    std::vector<int64_t> members;
    for (size_t i = 0; i < cluster_of.size(); ++i) {
      if (cluster_of[i] == cluster) members.push_back(static_cast<int64_t>(i));
    }
    const at::Tensor mine = points.index_select(0, at::tensor(members, at::kLong));
    sum += (mine - mine.mean(0, true)).square().sum().item<double>();
  }
  return sum;
}

void expect_same_on_ranks(const at::Tensor& rows, const KMeansOptions& options) {
  const KMeansResult alone = on_one(rows, options);
  for (const int ranks : {2, 4}) {
    std::mutex mutex;
    testing::run_ranks(ranks, [&](Communicator& world) {
      const KMeansResult found = balanced_kmeans(rows, options, world);
      const std::lock_guard<std::mutex> lock(mutex);
      EXPECT_EQ(found.cluster_of, alone.cluster_of) << ranks;
      EXPECT_TRUE(found.centres_ND.equal(alone.centres_ND)) << ranks;
      EXPECT_EQ(found.inertia, alone.inertia);
      EXPECT_EQ(found.steps, alone.steps);
    });
  }
}

// 8 groups of 86 vectors around Gaussian centres, as unit vectors (LLaMA-MoE v1 specification, T4).
TEST(BalancedKMeansTest, FindsGroupsOfEqualSize) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<int32_t> owner;
    const at::Tensor rows = planted(8, 86, 64, 0.2, seed, owner);
    const KMeansResult found = on_one(rows, {.clusters = 8, .seed = seed, .restarts = 3});
    std::set<std::pair<int32_t, int32_t>> pairs;
    for (size_t i = 0; i < owner.size(); ++i) pairs.emplace(owner[i], found.cluster_of[i]);
    EXPECT_EQ(pairs.size(), 8U) << "a group and a cluster are the same points; seed " << seed;
    EXPECT_EQ(found.cluster_of[0], 0) << "numbered by their least points";
    EXPECT_NEAR(found.inertia, inertia_of(spherical_rows(rows), found.cluster_of), 1e-6 * found.inertia);
  }
}

TEST(BalancedKMeansTest, SizesDifferByOneAtMostAndMoreStepsAreNoWorse) {
  const at::Tensor rows = testing::random_normal({203, 16}, 5, at::kFloat);
  double before = 1e30;
  for (const int64_t steps : {1, 2, 3, 5, 8, 100}) {
    const KMeansResult found =
        on_one(rows, {.clusters = 8, .seed = 1, .restarts = 1, .max_steps = steps, .tolerance = 0});
    for (const auto& [cluster, size] : sizes_of(found.cluster_of)) EXPECT_TRUE(size == 25 || size == 26) << size;
    EXPECT_NEAR(found.inertia, inertia_of(spherical_rows(rows), found.cluster_of), 1e-6 * found.inertia);
    EXPECT_LE(found.inertia, before * (1 + 1e-9)) << steps;
    before = found.inertia;
  }
  std::vector<int32_t> in_turn(203);
  for (size_t i = 0; i < in_turn.size(); ++i) in_turn[i] = static_cast<int32_t>(i % 8);
  EXPECT_LT(before, inertia_of(spherical_rows(rows), in_turn)) << "no better than any split";
}

/// Of noise in many dimensions, where a point's share of its own mean is most of what it is near to it by.
TEST(BalancedKMeansTest, WithoutAPointsOwnShareStepsGoOnToALowerInertia) {
  const at::Tensor rows = testing::random_normal({509, 200}, 8, at::kFloat), points = spherical_rows(rows);
  KMeansOptions options{.clusters = 8, .seed = 1, .restarts = 1, .tolerance = 0};
  const double lloyd = on_one(rows, options).inertia;
  options.leaves_self_out = true;
  double before = 1e30;
  for (const int64_t steps : {1, 2, 3, 5, 8, 100}) {
    options.max_steps = steps;
    const KMeansResult found = on_one(rows, options);
    for (const auto& [cluster, size] : sizes_of(found.cluster_of)) EXPECT_TRUE(size == 63 || size == 64) << size;
    EXPECT_NEAR(found.inertia, inertia_of(points, found.cluster_of), 1e-6 * found.inertia);
    EXPECT_LE(found.inertia, before) << steps;
    before = found.inertia;
  }
  EXPECT_LT(before, lloyd * 0.999);
  EXPECT_LT(before, on_one(rows, {.clusters = 8, .seed = 1, .restarts = 20, .tolerance = 0}).inertia)
      << "what twenty starts do not find";
  const at::Tensor few = testing::random_normal({5, 8}, 2, at::kFloat);
  EXPECT_EQ(on_one(few, {.clusters = 5, .leaves_self_out = true}).cluster_of, (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

/// v2 specification, B5.
TEST(BalancedKMeansTest, JitterBoundsTheSizes) {
  const at::Tensor rows = testing::random_normal({203, 6}, 5, at::kFloat).abs().pow(3);
  double before = 1e30;
  for (const double jitter : {0.1, 0.4, 1.0, kAnySize}) {
    const KMeansOptions options{.clusters = 8, .seed = 1, .restarts = 8, .jitter = jitter, .is_spherical = false};
    const KMeansResult found = on_one(rows, options);
    const double least = std::max(1.0, std::floor(203.0 / 8 * (1 - jitter))),
                 most = std::ceil(203.0 / 8 * (1 + jitter));
    EXPECT_EQ(sizes_of(found.cluster_of).size(), 8U) << "none is empty";
    for (const auto& [cluster, size] : sizes_of(found.cluster_of)) {
      EXPECT_GE(static_cast<double>(size), least) << jitter;
      EXPECT_LE(static_cast<double>(size), most) << jitter;
    }
    EXPECT_NEAR(found.inertia, inertia_of(rows, found.cluster_of), 1e-5 * found.inertia);
    EXPECT_LT(found.inertia, before) << "more room, and a lower sum of these rows";
    before = found.inertia;
    EXPECT_TRUE(at::equal(found.centres_ND, on_one(rows, options).centres_ND));
  }
}

/// Points of very different numbers around three centres: k-means finds them, balanced clusters cannot.
TEST(BalancedKMeansTest, AnySizeIsOrdinaryKMeans) {
  CounterRng rng(3, kStreamTest);
  std::vector<int32_t> owner;
  at::Tensor rows = at::empty({60, 3}, at::kFloat);
  for (int32_t i = 0; i < 60; ++i) {
    owner.push_back(i < 40 ? 0 : i < 55 ? 1 : 2);
    for (int64_t d = 0; d < 3; ++d) rows[i][d] = (d == owner[i] ? 10.0 : 0.0) + 0.3 * rng.normal();
  }
  EXPECT_EQ(on_one(rows, {.clusters = 3, .seed = 2, .jitter = kAnySize}).cluster_of, owner);
  EXPECT_NE(on_one(rows, {.clusters = 3, .seed = 2}).cluster_of, owner);
}

/// Directions of one half space, of which the mean would make others.
TEST(BalancedKMeansTest, CosinesToTheDirectionsOfTheMeans) {
  const at::Tensor rows = testing::random_normal({96, 8}, 7, at::kFloat) + 2;
  const at::Tensor unit = (rows / rows.norm(2, {1}, true)).to(at::kDouble);
  double before = 1e30;
  for (const int64_t steps : {1, 2, 4, 100}) {
    const KMeansResult found = on_one(rows, {.clusters = 6,
                                             .seed = 3,
                                             .restarts = 1,
                                             .max_steps = steps,
                                             .tolerance = 0,
                                             .distance = KMeansDistance::kCosine});
    double expected = 0;
    for (int64_t i = 0; i < 96; ++i) {
      const at::Tensor centre = found.centres_ND[found.cluster_of[i]].to(at::kDouble);
      expected += 1 - (unit[i] * centre).sum().item<double>() / centre.norm().item<double>();
    }
    EXPECT_NEAR(found.inertia, expected, 1e-5 * expected);
    EXPECT_LE(found.inertia, before * (1 + 1e-9)) << steps;
    before = found.inertia;
    for (const auto& [cluster, size] : sizes_of(found.cluster_of)) EXPECT_EQ(size, 16);
  }
}

// Two neurons that look the same way are one direction, however long they are.
TEST(BalancedKMeansTest, LengthsDoNotCount) {
  const at::Tensor rows = testing::random_normal({60, 12}, 6, at::kFloat);
  at::Tensor stretched = rows.clone();
  for (int64_t i = 0; i < 60; ++i) stretched[i].mul_(static_cast<double>(uint64_t{1} << (i % 5)));
  stretched[7].zero_();
  at::Tensor with_zero = rows.clone();
  with_zero[7].zero_();
  const KMeansOptions options{.clusters = 5, .seed = 2};
  EXPECT_EQ(on_one(stretched, options).cluster_of, on_one(with_zero, options).cluster_of);
}

TEST(BalancedKMeansTest, TheSameOnAnyNumberOfRanksAndForTheSameSeedAlone) {
  const at::Tensor rows = testing::random_normal({96, 10}, 9, at::kFloat);
  KMeansOptions options{.clusters = 6, .seed = 4, .stream = kStreamTest, .substream = 2, .restarts = 3};
  for (const bool leaves_self_out : {true, false}) {
    options.leaves_self_out = leaves_self_out;
    expect_same_on_ranks(rows, options);
  }
  const KMeansResult alone = on_one(rows, options);
  KMeansOptions other = options;
  other.substream = 3;
  EXPECT_NE(on_one(rows, other).cluster_of, alone.cluster_of);
  other.restarts = 1;
  EXPECT_GE(on_one(rows, other).inertia,
            on_one(rows, {.clusters = 6, .seed = 4, .stream = kStreamTest, .substream = 3, .restarts = 4}).inertia);
}

TEST(BalancedKMeansTest, TwinsAndSingles) {
  const at::Tensor twins = testing::random_normal({1, 8}, 1, at::kFloat).expand({12, 8}).contiguous();
  const KMeansResult found = on_one(twins, {.clusters = 4});
  EXPECT_EQ(sizes_of(found.cluster_of).size(), 4U);
  EXPECT_NEAR(found.inertia, 0, 1e-9);
  const at::Tensor few = testing::random_normal({5, 8}, 2, at::kFloat);
  EXPECT_EQ(on_one(few, {.clusters = 5}).cluster_of, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(on_one(few, {.clusters = 1}).cluster_of, (std::vector<int32_t>{0, 0, 0, 0, 0}));
  EXPECT_THAT([&] { on_one(few, {.clusters = 6}); },
              ::testing::ThrowsMessage<InvalidArgument>(HasSubstr("5 points cannot be 6 clusters")));
}

}  // namespace
}  // namespace moe
