// Exactness against all assignments (small) and against the certificate of optimality (large): no chain of moves from
// cluster to cluster makes it cheaper.

#include "convert/balanced_assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

std::vector<double> random_costs(int64_t points, int64_t clusters, uint64_t seed) {
  CounterRng rng(seed, kStreamTest);
  std::vector<double> costs(points * clusters);
  for (double& cost : costs) cost = rng.normal();
  return costs;
}

double total(const std::vector<double>& costs, const std::vector<int32_t>& cluster_of, size_t clusters) {
  double sum = 0;
  for (size_t i = 0; i < cluster_of.size(); ++i) sum += costs[i * clusters + cluster_of[i]];
  return sum;
}

std::vector<int64_t> sizes_of(const std::vector<int32_t>& cluster_of, size_t clusters) {
  std::vector<int64_t> sizes(clusters, 0);
  for (const int32_t cluster : cluster_of) ++sizes[cluster];
  return sizes;
}

/// Least over every way to fill the clusters.
double least_of_all(const std::vector<double>& costs, const std::vector<int64_t>& capacities) {
  std::vector<int32_t> cluster_of;
  for (size_t c = 0; c < capacities.size(); ++c)
    cluster_of.insert(cluster_of.end(), capacities[c], static_cast<int32_t>(c));
  double least = std::numeric_limits<double>::infinity();
  do {
    least = std::min(least, total(costs, cluster_of, capacities.size()));
  } while (std::next_permutation(cluster_of.begin(), cluster_of.end()));
  return least;
}

/// Least sum around a cycle of clusters of what moving a point along each arc costs more; not negative for an optimum.
double least_cycle(const std::vector<double>& costs, const std::vector<int32_t>& cluster_of, size_t clusters) {
  std::vector<double> distance(clusters * clusters, std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < cluster_of.size(); ++i) {
    for (size_t to = 0; to < clusters; ++to) {
      const size_t from = cluster_of[i];
      if (to == from) continue;
      double& arc = distance[from * clusters + to];
      arc = std::min(arc, costs[i * clusters + to] - costs[i * clusters + from]);
    }
  }
  for (size_t k = 0; k < clusters; ++k) {
    for (size_t i = 0; i < clusters; ++i) {
      for (size_t j = 0; j < clusters; ++j) {
        distance[i * clusters + j] =
            std::min(distance[i * clusters + j], distance[i * clusters + k] + distance[k * clusters + j]);
      }
    }
  }
  double least = 0;
  for (size_t i = 0; i < clusters; ++i) least = std::min(least, distance[i * clusters + i]);
  return least;
}

TEST(BalancedAssignmentTest, IsTheBestOfAll) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::vector<double> costs = random_costs(9, 3, seed);
    const std::vector<int64_t> capacities = seed % 3 == 0   ? std::vector<int64_t>{3, 3, 3}
                                            : seed % 3 == 1 ? std::vector<int64_t>{1, 6, 2}
                                                            : std::vector<int64_t>{0, 5, 4};
    const std::vector<int32_t> found = balanced_assignment(costs, capacities);
    EXPECT_EQ(sizes_of(found, 3), capacities) << seed;
    EXPECT_NEAR(total(costs, found, 3), least_of_all(costs, capacities), 1e-12) << seed;
  }
}

/// Every assignment of six points to three clusters that keeps the bounds, against room that is left and least sizes.
TEST(BoundedAssignmentTest, IsTheBestOfAll) {
  const std::vector<int64_t> least{1, 2, 0}, most{2, 4, 6};
  int64_t bound = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<double> costs = random_costs(6, 3, seed);
    // Half of them pull where there is no room, or away from where points must be.
    if (seed % 2 == 0) {
      for (size_t i = 0; i < 6; ++i) costs[3 * i + (seed % 4 == 0 ? 0 : 1)] += seed % 4 == 0 ? -2 : 2;
    }
    double best_upper = std::numeric_limits<double>::infinity(), best = best_upper;
    for (int code = 0; code < 729; ++code) {
      std::vector<int32_t> cluster_of;
      for (int rest = code; cluster_of.size() < 6; rest /= 3) cluster_of.push_back(rest % 3);
      const std::vector<int64_t> sizes = sizes_of(cluster_of, 3);
      if (sizes[0] > most[0] || sizes[1] > most[1]) continue;
      best_upper = std::min(best_upper, total(costs, cluster_of, 3));
      if (sizes[0] >= least[0] && sizes[1] >= least[1]) best = std::min(best, total(costs, cluster_of, 3));
    }
    EXPECT_NEAR(total(costs, balanced_assignment(costs, most), 3), best_upper, 1e-12) << seed;
    const std::vector<int32_t> found = bounded_assignment(costs, least, most);
    EXPECT_NEAR(total(costs, found, 3), best, 1e-12) << seed;
    EXPECT_GE(sizes_of(found, 3)[0], 1);
    EXPECT_GE(sizes_of(found, 3)[1], 2);
    bound += best > best_upper ? 1 : 0;
  }
  EXPECT_GT(bound, 20) << "the least sizes must matter";
  EXPECT_THROW(bounded_assignment(random_costs(2, 3, 1), least, most), Internal);
}

// Also where every point prefers the same cluster, so that nearly all have to move.
TEST(BalancedAssignmentTest, NoChainOfMovesMakesALargeOneCheaper) {
  struct Case {
    int64_t points, clusters;
    double pull;  // of cluster 0
  };
  for (const Case& at : {Case{4000, 8, 0}, {4001, 16, 0}, {3000, 16, 100}, {1500, 128, 0}, {1500, 128, 100}}) {
    std::vector<double> costs = random_costs(at.points, at.clusters, 7);
    for (int64_t i = 0; i < at.points; ++i) costs[i * at.clusters] -= at.pull;
    const std::vector<int64_t> capacities = even_capacities(at.points, at.clusters);
    const std::vector<int32_t> found = balanced_assignment(costs, capacities);
    EXPECT_EQ(sizes_of(found, at.clusters), capacities);
    EXPECT_GT(least_cycle(costs, found, at.clusters), -1e-9) << at.points << " " << at.clusters;
  }
}

TEST(BalancedAssignmentTest, TheCertificateSeesOneSwap) {
  const std::vector<double> costs = random_costs(200, 4, 3);
  std::vector<int32_t> found = balanced_assignment(costs, even_capacities(200, 4));
  const auto other = std::find_if(found.begin(), found.end(), [&](int32_t c) { return c != found[0]; });
  std::swap(found[0], *other);
  EXPECT_LT(least_cycle(costs, found, 4), -1e-9);
}

TEST(BalancedAssignmentTest, EdgesOfWhatItTakes) {
  EXPECT_EQ(balanced_assignment({}, std::vector<int64_t>{0, 0}), std::vector<int32_t>{});
  EXPECT_EQ(balanced_assignment(std::vector<double>{5, 5, 5, 5, 5, 5}, std::vector<int64_t>{1, 2}).size(), 3U);
  EXPECT_EQ(balanced_assignment(std::vector<double>{3, 1}, std::vector<int64_t>{2}), (std::vector<int32_t>{0, 0}));
  EXPECT_THROW(balanced_assignment(std::vector<double>{1, 2, 3}, std::vector<int64_t>{1, 1}), Internal);
  EXPECT_THROW(balanced_assignment(std::vector<double>{1, 2, 3, 4}, std::vector<int64_t>{3, -1}), Internal);
  EXPECT_THROW(balanced_assignment({}, {}), Internal);
  EXPECT_EQ(even_capacities(10, 4), (std::vector<int64_t>{3, 3, 2, 2}));
}

}  // namespace
}  // namespace moe
