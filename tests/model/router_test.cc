#include "model/moe/router.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "model/moe/aux_loss.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

at::Tensor ids_of(std::vector<int64_t> ids, int64_t top_k) {
  return at::tensor(ids, at::kLong).view({-1, top_k});
}

// With the identity as router, a token's logits are the token itself.
at::Tensor identity(int64_t experts) {
  return at::eye(experts, at::kFloat);
}

TEST(RouterTest, LowestIdWinsTies) {
  const at::Tensor x = at::tensor({1.f, 1.f, 1.f, 1.f, /**/ 0.f, 2.f, 3.f, 2.f, /**/ 5.f, 4.f, 5.f, 4.f}).view({3, 4});
  const Routing routing = route(x, identity(4), 2, TopkNorm::kRenorm);
  EXPECT_TRUE(routing.expert_ids_TK.equal(ids_of({0, 1, 2, 1, 0, 2}, 2))) << routing.expert_ids_TK;
}

TEST(RouterTest, ChoosesAsAFullSortWould) {
  const at::Tensor x = random_normal({200, 16}, 1, at::kFloat);
  for (const int64_t top_k : {1, 2, 5, 16}) {
    const Routing routing = route(x, identity(16), top_k, TopkNorm::kRenorm);
    const at::Tensor sorted =
        std::get<1>(at::sort(x, /*stable=*/true, /*dim=*/1, /*descending=*/true)).narrow(1, 0, top_k);
    EXPECT_TRUE(routing.expert_ids_TK.equal(sorted)) << "top_k " << top_k;
  }
}

TEST(RouterTest, RenormedWeightsAreTheSoftmaxOfTheChosen) {
  const at::Tensor x = random_normal({50, 6}, 2), router = random_normal({8, 6}, 3);
  const Routing routing = route(x, router, 3, TopkNorm::kRenorm);
  const at::Tensor p = at::softmax(at::matmul(x, router.t()), 1);
  EXPECT_TRUE(near(routing.probabilities_TE, p, 1e-12));
  const at::Tensor chosen = p.gather(1, routing.expert_ids_TK);
  EXPECT_TRUE(near(routing.weights_TK, chosen / chosen.sum(1, true), 1e-12));
}

TEST(RouterTest, RawWeightsAreTheSoftmaxOverAll) {
  const at::Tensor x = random_normal({50, 6}, 2), router = random_normal({8, 6}, 3);
  const Routing routing = route(x, router, 3, TopkNorm::kRaw);
  EXPECT_TRUE(
      near(routing.weights_TK, at::softmax(at::matmul(x, router.t()), 1).gather(1, routing.expert_ids_TK), 1e-12));
  EXPECT_LT(routing.weights_TK.sum(1).max().item<double>(), 1);
  EXPECT_EQ(parse_topk_norm("raw"), TopkNorm::kRaw);
}

// With one expert per token the renormalised weight is constantly 1 and cannot teach the router; straight-through can.
TEST(RouterTest, StraightThroughIsOneAndHasTheGradientOfLogP) {
  for (const int64_t top_k : {1, 2, 5}) {
    SCOPED_TRACE(top_k);
    const at::Tensor x = random_normal({20, 6}, 4);
    const at::Tensor router = random_normal({5, 6}, 5).requires_grad_(true);
    const Routing routing = route(x, router, top_k, TopkNorm::kStraightThrough);
    EXPECT_EQ(routing.weights_TK.sizes(), (std::vector<int64_t>{20, top_k}));
    EXPECT_TRUE(routing.weights_TK.eq(1).all().item<bool>());
    const at::Tensor dy = random_normal({20, top_k}, 6);
    (routing.weights_TK * dy).sum().backward();
    const at::Tensor ours = router.grad().clone();
    router.mutable_grad() = at::Tensor();
    (at::log_softmax(at::matmul(x, router.t()), 1).gather(1, routing.expert_ids_TK) * dy).sum().backward();
    EXPECT_GT(testing::max_abs(ours), 0.1);
    EXPECT_TRUE(near(ours, router.grad(), 1e-10));
  }
}

// The second and third choice of the first token have p = e^-120 and e^-300, both 0 in float; of the second token the
// two highest logits lie as far apart as float allows.
TEST(RouterTest, StraightThroughStaysRightWhereAChosenProbabilityUnderflows) {
  const auto gradient_of = [](at::ScalarType dtype, at::Tensor* weights) {
    const at::Tensor logits =
        at::tensor({0., -120., -300., -400., /**/ -1e30, 1e30, -1e30, -2e30, /**/ 1., 2., 3., 4.}, at::kDouble)
            .view({3, 4})
            .to(dtype)
            .requires_grad_(true);
    *weights = route(logits, at::eye(4, dtype), 3, TopkNorm::kStraightThrough).weights_TK;
    (*weights * at::tensor({1., -2., 0.5}, dtype)).sum().backward();
    return logits.grad();
  };
  at::Tensor weights, exact_weights;
  const at::Tensor ours = gradient_of(at::kFloat, &weights), exact = gradient_of(at::kDouble, &exact_weights);
  EXPECT_TRUE(weights.eq(1).all().item<bool>()) << weights;
  EXPECT_TRUE(exact_weights.eq(1).all().item<bool>()) << exact_weights;
  // By hand: d/dz_j of sum_k dy_k log p_k = dy_j - p_j sum_k dy_k, with p = (1, 0, 0, 0) and then (0, 1, 0, 0).
  const at::Tensor by_hand = at::tensor({1 + 0.5, -2., 0.5, 0., /**/ -2., 1 + 0.5, 0.5, 0.}, at::kDouble).view({2, 4});
  EXPECT_TRUE(near(exact.narrow(0, 0, 2), by_hand, 1e-12)) << exact;
  EXPECT_TRUE(near(ours, exact, 1e-6)) << ours;
}

TEST(RouterTest, NoTokens) {
  const Routing routing = route(at::empty({0, 6}), random_normal({5, 6}, 1, at::kFloat), 2, TopkNorm::kRenorm);
  EXPECT_EQ(routing.weights_TK.sizes(), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(routing.expert_ids_TK.sizes(), (std::vector<int64_t>{0, 2}));
}

TEST(RouterTest, UnknownNormIsRefusedByName) {
  EXPECT_THROW(parse_topk_norm("none"), InvalidArgument);
}

/// Statistics of given choices and probabilities.
RouterStats stats_of(const at::Tensor& ids_TK, const at::Tensor& probabilities_TE) {
  return {at::bincount(ids_TK.flatten(), {}, probabilities_TE.size(1)), probabilities_TE.sum(0)};
}
at::Tensor counts_of(const std::vector<RouterStats>& layers) {
  std::vector<at::Tensor> counts;
  for (const RouterStats& layer : layers) counts.push_back(layer.tokens_per_expert_E);
  return at::stack(counts);
}

TEST(BalanceLossTest, IsOneAtUniformRoutingAndExpertsOverTopKAtCollapse) {
  const at::Tensor uniform = at::full({4, 4}, 0.25, at::kDouble);
  const std::vector<RouterStats> balanced(3, stats_of(ids_of({0, 1, 2, 3, 0, 1, 2, 3}, 2), uniform));
  EXPECT_NEAR(balance_loss(balanced, counts_of(balanced), 4, 2).item<double>(), 1, 1e-12);
  at::Tensor collapsed = at::zeros({4, 4}, at::kDouble);
  collapsed.narrow(1, 0, 2).fill_(0.5);
  const std::vector<RouterStats> dead{stats_of(ids_of({0, 1, 0, 1, 0, 1, 0, 1}, 2), collapsed)};
  EXPECT_NEAR(balance_loss(dead, counts_of(dead), 4, 2).item<double>(), 2, 1e-12);
}

TEST(BalanceLossTest, SharesOfRanksSumToTheLossOfAllTokensAndSoDoGradients) {
  const int64_t tokens = 30, experts = 5;
  const at::Tensor ids =
      at::argsort(random_normal({tokens, experts}, 1), int64_t{1}, /*descending=*/false).narrow(1, 0, 2).contiguous();
  const at::Tensor logits = random_normal({tokens, experts}, 2).requires_grad_(true);
  const auto layer = [&](int64_t first, int64_t count) {
    return stats_of(ids.narrow(0, first, count), at::softmax(logits.narrow(0, first, count), 1));
  };
  const std::vector<RouterStats> all{layer(0, tokens)};
  const at::Tensor counts = counts_of(all);
  const at::Tensor whole = balance_loss(all, counts, tokens, 2);
  // By the formula: E * sum_e f_e P_e.
  const at::Tensor f = counts[0].to(at::kDouble) / (2.0 * tokens);
  EXPECT_NEAR(whole.item<double>(), (f * at::softmax(logits, 1).mean(0)).sum().item<double>() * experts, 1e-12);
  whole.backward();
  const at::Tensor expected = logits.grad().clone();
  logits.mutable_grad() = at::Tensor();
  const at::Tensor shares =
      balance_loss({layer(0, 11)}, counts, tokens, 2) + balance_loss({layer(11, 19)}, counts, tokens, 2);
  EXPECT_NEAR(shares.item<double>(), whole.item<double>(), 1e-12);
  shares.backward();
  EXPECT_TRUE(near(logits.grad(), expected, 1e-10));
}

}  // namespace
}  // namespace moe
