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
      const at::Tensor active = active_neurons(mine, kActive, world);
      EXPECT_EQ(active.sizes(), at::IntArrayRef({kTokens, kActive}));
      const Coactivation together(active, kNeurons);
      std::vector<int32_t> counts(kNeurons);
      for (int64_t i = 0; i < kNeurons; ++i) {
        together.count(i, counts);
        for (int64_t j = i + 1; j < kNeurons; ++j)
          EXPECT_EQ(counts[j], expected[i][j].item<double>()) << i << " and " << j << ", " << ranks;
      }
    });
  }
}

/// Of four neurons there are six pairs: two of count 0, one each of 3, 7, 10 and 20. The 40th percentile is the first
/// that is not 0: 3, and 3 / (0.99 * 3) is 1, 7 / 2.97 2, 10 / 2.97 3 and 20 / 2.97 6.
TEST(CoactivationTest, WeightsAreWholeMultiplesOfTheFirstDecile) {
  std::vector<int64_t> pairs(21, 0);
  pairs[0] = 2;
  for (const int count : {3, 7, 10, 20}) pairs[count] = 1;
  const std::vector<uint16_t> weights = edge_weights(pairs);
  ASSERT_EQ(weights.size(), 21U);
  EXPECT_EQ(weights[0], 0);
  EXPECT_EQ(weights[2], 0);
  EXPECT_EQ(weights[3], 1);
  EXPECT_EQ(weights[7], 2);
  EXPECT_EQ(weights[10], 3);
  EXPECT_EQ(weights[20], 6);

  // One pair of 45 is less than a tenth: the first decile is above its count, and it makes no edge.
  std::vector<int64_t> most(21, 0);
  most[9] = 1;
  most[10] = 44;
  EXPECT_EQ(edge_weights(most)[9], 0);
  EXPECT_EQ(edge_weights(most)[10], 1);
  EXPECT_THAT(edge_weights({3, 0, 0}), ::testing::Each(0)) << "no neuron is active with another";

  std::vector<int64_t> many(70001, 0);  // tokens
  many[1] = many[70000] = 1;
  EXPECT_EQ(edge_weights(many)[70000], 65535) << "70707, if there were room";
}

/// Three neurons that are active together on 2, 1 and 0 tokens: a decile of 1 and weights of 2, 1 and 0.
TEST(CoactivationTest, EdgesOfAllPairs) {
  const at::Tensor active = at::tensor({0, 1, 0, 1, 1, 2}, at::kInt).view({3, 2});
  const EdgeWeights edges = coactivation_edges(Coactivation(active, 3));
  EXPECT_THAT(std::vector<int>(edges.row(0), edges.row(0) + 3), ::testing::ElementsAre(0, 2, 0));
  EXPECT_THAT(std::vector<int>(edges.row(1), edges.row(1) + 3), ::testing::ElementsAre(2, 0, 1));
  EXPECT_THAT(std::vector<int>(edges.row(2), edges.row(2) + 3), ::testing::ElementsAre(0, 1, 0));
}

EdgeWeights edges_of(const at::Tensor& weights_FF) {
  EdgeWeights edges(weights_FF.size(0));
  const auto weights = weights_FF.accessor<float, 2>();
  for (int64_t i = 0; i < edges.nodes(); ++i) {
    for (int64_t j = 0; j < i; ++j) edges.set(i, j, static_cast<uint16_t>(weights[i][j]));
  }
  return edges;
}

std::vector<int64_t> part_sizes(const std::vector<int32_t>& part_of, int64_t parts) {
  std::vector<int64_t> sizes(parts, 0);
  for (const int32_t part : part_of) ++sizes.at(part);
  return sizes;
}

at::Tensor random_weights(int64_t nodes, uint64_t seed) {
  const at::Tensor x = (testing::random_normal({nodes, nodes}, seed).abs() * 3).floor().to(at::kFloat);
  at::Tensor weights = x + x.t();
  weights.fill_diagonal_(0);
  return weights;
}

TEST(GraphPartitionTest, NoExchangeOfTwoNodesGains) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const EdgeWeights weights = edges_of(random_weights(41, seed));
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
        if (i % 4 == j % 4) in_turn += weights.row(i)[j];
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
  at::Tensor weights = random_weights(64, 7);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) {
      if (i != j && order[i] % 8 == order[j] % 8) weights[i][j] += 12;
    }
  }
  const std::vector<int32_t> part_of = balanced_partition(edges_of(weights), 8);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) EXPECT_EQ(part_of[i] == part_of[j], order[i] % 8 == order[j] % 8);
  }
}

/// More nodes in a part than are looked at first: no exchange gains either.
TEST(GraphPartitionTest, NoExchangeOfTwoNodesOfLargePartsGains) {
  const EdgeWeights weights = edges_of(random_weights(160, 3));
  const std::vector<int32_t> part_of = balanced_partition(weights, 2);
  EXPECT_THAT(part_sizes(part_of, 2), ::testing::ElementsAre(80, 80));
  for (int64_t i = 0; i < 160; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      if (part_of[i] == part_of[j]) continue;
      // What i and j leave and gain, but for the edge between them.
      double gain = -2.0 * weights.row(i)[j];
      for (int64_t k = 0; k < 160; ++k) {
        gain += weights.row(i)[k] * (part_of[k] == part_of[j] ? 1.0 : -1.0);
        gain += weights.row(j)[k] * (part_of[k] == part_of[i] ? 1.0 : -1.0);
      }
      EXPECT_LE(gain, 0) << i << " and " << j;
    }
  }
}

TEST(GraphPartitionTest, WithoutEdgesNodesStayInTheirOrder) {
  EXPECT_THAT(balanced_partition(EdgeWeights(5), 2), ::testing::ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(balanced_partition(EdgeWeights(3), 3), ::testing::ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace moe
