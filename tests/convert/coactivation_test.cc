// Neurons that are active together, and the partition of their graph.
#include "convert/coactivation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/rng.h"
#include "convert/graph_partition.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

TEST(CoactivationTest, CountsTokensOnWhichBothAreAmongTheMostActive) {
  constexpr int64_t kTokens = 700, kNeurons = 9, kActive = 3;  // more tokens than are laid out at a time
  // Of few values, so that the third and the fourth are often equal.
  const at::Tensor h = (testing::random_normal({kTokens, kNeurons}, 3, at::kFloat) * 2).round();
  at::Tensor expected = at::zeros({kNeurons, kNeurons}, at::kFloat);
  for (int64_t t = 0; t < kTokens; ++t) {
    std::vector<std::pair<double, int64_t>> sizes;
    for (int64_t j = 0; j < kNeurons; ++j) sizes.emplace_back(-std::abs(h[t][j].item<double>()), j);
    std::sort(sizes.begin(), sizes.end());
    for (int64_t a = 0; a < kActive; ++a) {
      for (int64_t b = 0; b < kActive; ++b) {
        if (a != b) expected[sizes[a].second][sizes[b].second] += 1;
      }
    }
  }
  for (const int ranks : {1, 2, 4}) {
    testing::run_ranks(ranks, [&](Communicator& world) {
      const at::Tensor mine = h.slice(0, kTokens * world.rank() / ranks, kTokens * (world.rank() + 1) / ranks);
      EXPECT_TRUE(at::equal(coactivation_counts(mine, kActive, world), expected)) << ranks;
    });
  }
}

at::Tensor symmetric(int64_t nodes, const std::vector<std::tuple<int64_t, int64_t, double>>& edges) {
  at::Tensor weights = at::zeros({nodes, nodes}, at::kFloat);
  for (const auto& [a, b, weight] : edges) {
    weights[a][b] = weight;
    weights[b][a] = weight;
  }
  return weights;
}

/// Off the diagonal of four neurons stand twelve counts: 0 four times, 3 and 7 and 10 and 20 twice each. The 40th
/// percentile is the first that is not 0: 3, and 3 / (0.99 * 3) is 1, 7 / 2.97 2, 10 / 2.97 3 and 20 / 2.97 6.
TEST(CoactivationTest, WeightsAreWholeMultiplesOfTheFirstDecile) {
  at::Tensor counts = symmetric(4, {{0, 1, 3}, {0, 2, 7}, {1, 3, 10}, {2, 3, 20}});
  weigh_edges(counts, 20);
  EXPECT_TRUE(at::equal(counts, symmetric(4, {{0, 1, 1}, {0, 2, 2}, {1, 3, 3}, {2, 3, 6}}))) << counts;

  // One pair of 45 is less than a tenth: the first decile is above its count, and it makes no edge.
  at::Tensor most = at::full({10, 10}, 10).to(at::kFloat);
  most.fill_diagonal_(0);
  most[0][1] = 9;
  most[1][0] = 9;
  weigh_edges(most, 20);
  EXPECT_EQ(most[0][1].item<double>(), 0);
  EXPECT_EQ(most[0][2].item<double>(), 1);
  at::Tensor none = at::zeros({3, 3}, at::kFloat);
  weigh_edges(none, 5);
  EXPECT_EQ(none.count_nonzero().item<int64_t>(), 0);
}

std::vector<int64_t> part_sizes(const std::vector<int32_t>& part_of, int64_t parts) {
  std::vector<int64_t> sizes(parts, 0);
  for (const int32_t part : part_of) ++sizes.at(part);
  return sizes;
}

at::Tensor random_graph(int64_t nodes, uint64_t seed) {
  const at::Tensor x = (testing::random_normal({nodes, nodes}, seed).abs() * 3).floor().to(at::kFloat);
  at::Tensor weights = x + x.t();
  weights.fill_diagonal_(0);
  return weights;
}

TEST(GraphPartitionTest, NoExchangeOfTwoNodesGains) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const at::Tensor weights = random_graph(41, seed);
    std::vector<int32_t> part_of = balanced_partition(weights, 4);
    EXPECT_EQ(part_of, balanced_partition(weights, 4));
    std::vector<int64_t> sizes = part_sizes(part_of, 4);
    std::sort(sizes.begin(), sizes.end());
    EXPECT_EQ(sizes, (std::vector<int64_t>{10, 10, 10, 11}));
    EXPECT_EQ(part_of[0], 0) << "numbered by their least nodes";
    const double found = weight_inside(weights, part_of);
    double in_turn = 0;
    for (int64_t i = 0; i < 41; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        if (i % 4 == j % 4) in_turn += weights[i][j].item<double>();
        if (part_of[i] == part_of[j]) continue;
        std::swap(part_of[i], part_of[j]);
        EXPECT_LE(weight_inside(weights, part_of), found) << i << " and " << j << ", seed " << seed;
        std::swap(part_of[i], part_of[j]);
      }
    }
    EXPECT_GT(found, in_turn);
  }
}

/// Blocks in a random order, with weaker edges between them.
TEST(GraphPartitionTest, FindsPlantedBlocks) {
  CounterRng rng(5, kStreamTest);
  const std::vector<int64_t> order = random_permutation(64, rng);
  at::Tensor weights = random_graph(64, 7);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) {
      if (i != j && order[i] % 8 == order[j] % 8) weights[i][j] += 12;
    }
  }
  const std::vector<int32_t> part_of = balanced_partition(weights, 8);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) EXPECT_EQ(part_of[i] == part_of[j], order[i] % 8 == order[j] % 8);
  }
}

TEST(GraphPartitionTest, WithoutEdgesNodesStayInTheirOrder) {
  EXPECT_THAT(balanced_partition(at::zeros({5, 5}, at::kFloat), 2), ::testing::ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(balanced_partition(at::zeros({3, 3}, at::kFloat), 3), ::testing::ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace moe
