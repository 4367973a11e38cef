// The balance loss over layers apart and over their experts as those of one. llama-moe-v2 section 4.
#include <gtest/gtest.h>

#include "common/error.h"
#include "model/moe/aux_loss.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

/// A layer of 2 experts whose 10 tokens all chose expert `chosen`, of these mean probabilities.
RouterStats all_to(int64_t chosen, double first, double second) {
  Routing routing;
  routing.expert_ids_TK = at::full({10, 1}, chosen, at::kLong);
  routing.probabilities_TE = at::tensor({first, second}, at::kDouble).expand({10, 2}).contiguous();
  return stats_of(routing, /*keeps_routing=*/true);
}

/// Each layer is uneven, and both together are even: by hand, f = 1/2, P = (0.55, 0.45), E sum f P = 1; apart
/// (2 * 0.9 + 2 * 0.8) / 2.
TEST(BalanceLayersTest, LayersThatEvenEachOtherOutAreEvenWhenConcatenated) {
  const std::vector<RouterStats> layers{all_to(0, 0.9, 0.1), all_to(1, 0.2, 0.8)};
  const at::Tensor counts = at::tensor({10, 0, 0, 10}, at::kLong).view({2, 2});
  using enum BalanceLayers;
  EXPECT_NEAR(balance_loss(layers, counts, 10, 1).item<double>(), 1.7, 1e-12);
  EXPECT_NEAR(balance_loss(layers, counts, 10, 1, 10, kPerLayer).item<double>(), 1.7, 1e-12);
  EXPECT_NEAR(balance_loss(layers, counts, 10, 1, 10, kConcatenated).item<double>(), 1, 1e-12);
  for (const std::vector<int64_t>& sequences : {std::vector<int64_t>{0, 10}, {0, 3, 10}}) {
    EXPECT_NEAR(sequence_balance_loss(layers, sequences, 10, 1).item<double>(), 1.7, 1e-12);
    EXPECT_NEAR(sequence_balance_loss(layers, sequences, 10, 1, kConcatenated).item<double>(), 1, 1e-12);
  }
  EXPECT_THROW(parse_balance_layers("layers"), InvalidArgument);
}

/// As the published code has it: the tokens of all layers one behind the other, as those of one layer.
TEST(BalanceLayersTest, ConcatenatedIsOneLayerWithTheTokensOfAll) {
  std::vector<at::Tensor> leaves;
  for (uint64_t layer = 0; layer < 3; ++layer)
    leaves.push_back(testing::random_normal({9, 5}, layer).requires_grad_(true));
  const auto stats = [](const at::Tensor& logits_TE) {
    return stats_of(route(logits_TE, {at::eye(5, at::kDouble)}, {2}), /*keeps_routing=*/true);
  };
  std::vector<RouterStats> layers;
  for (const at::Tensor& leaf : leaves) layers.push_back(stats(leaf));
  const std::vector<RouterStats> one{stats(at::cat(leaves))};
  std::vector<at::Tensor> counts;
  for (const RouterStats& layer : layers) counts.push_back(layer.tokens_per_expert_E);
  const at::Tensor of_one = balance_loss(one, one[0].tokens_per_expert_E.unsqueeze(0), 27, 2),
                   concatenated = balance_loss(layers, at::stack(counts), 9, 2, 9, BalanceLayers::kConcatenated),
                   of_sequence = sequence_balance_loss(layers, {0, 9}, 9, 2, BalanceLayers::kConcatenated);
  EXPECT_NEAR(concatenated.item<double>(), of_one.item<double>(), 1e-12);
  EXPECT_NEAR(of_sequence.item<double>(), of_one.item<double>(), 1e-12);
  const auto gradient = [&](const at::Tensor& loss) {
    leaves[1].mutable_grad() = at::Tensor();
    loss.backward({}, /*keep_graph=*/true);
    return leaves[1].grad().clone();
  };
  const at::Tensor expected = gradient(of_one);
  EXPECT_GT(testing::max_abs(expected), 1e-4);
  EXPECT_TRUE(testing::near(gradient(concatenated), expected, 1e-12));
  EXPECT_TRUE(testing::near(gradient(of_sequence), expected, 1e-12));
}

}  // namespace
}  // namespace moe
