#include "model/moe/aux_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "model/moe/router.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

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
  const std::vector<RouterStats> balanced(
      3, stats_of(at::tensor({0, 1, 2, 3, 0, 1, 2, 3}, at::kLong).view({4, 2}), uniform));
  EXPECT_NEAR(balance_loss(balanced, counts_of(balanced), 4, 2).item<double>(), 1, 1e-12);
  at::Tensor collapsed = at::zeros({4, 4}, at::kDouble);
  collapsed.narrow(1, 0, 2).fill_(0.5);
  const std::vector<RouterStats> dead{
      stats_of(at::tensor({0, 1, 0, 1, 0, 1, 0, 1}, at::kLong).view({4, 2}), collapsed)};
  EXPECT_NEAR(balance_loss(dead, counts_of(dead), 4, 2).item<double>(), 2, 1e-12);
}

/// llama-moe-v1 T11: the Switch Transformer's, one choice a token, at uniform routing is the coefficient.
TEST(BalanceLossTest, OfOneChoiceIsTheCoefficientAtUniformRouting) {
  const std::vector<RouterStats> uniform{
      stats_of(at::tensor({0, 1, 2, 3, 4, 5, 6, 7}, at::kLong).view({8, 1}), at::full({8, 8}, 0.125, at::kDouble))};
  EXPECT_NEAR(0.01 * balance_loss(uniform, counts_of(uniform), 8, 1).item<double>(), 0.01, 1e-12);
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

/// A layer's routing of random logits, as route() gives it.
RouterStats random_routing(const at::Tensor& logits_TE, int64_t top_k) {
  Routing routing = route(logits_TE, {at::eye(logits_TE.size(1), at::kDouble)}, {top_k});
  RouterStats stats = stats_of(routing.expert_ids_TK, routing.probabilities_TE);
  stats.routing = std::move(routing);
  return stats;
}

TEST(BalanceLossTest, OfSequencesIsTheMeanOverTokensOfEachByItself) {
  const int64_t experts = 5, top_k = 2;
  const std::vector<int64_t> bounds{0, 7, 8, 20};
  const at::Tensor a = random_normal({20, experts}, 1).requires_grad_(true), b = random_normal({20, experts}, 2);
  const at::Tensor loss =
      sequence_balance_loss({random_routing(a, top_k), random_routing(b, top_k)}, bounds, 20, top_k);
  at::Tensor expected = at::zeros({}, at::kDouble);
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int64_t first = bounds[s], count = bounds[s + 1] - first;
    for (const at::Tensor& logits : {a, b}) {
      const std::vector<RouterStats> alone{random_routing(logits.narrow(0, first, count), top_k)};
      expected = expected + balance_loss(alone, counts_of(alone), count, top_k) * static_cast<double>(count) / 20. / 2.;
    }
  }
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-12);
  loss.backward();
  const at::Tensor ours = a.grad().clone();
  a.mutable_grad() = at::Tensor();
  expected.backward();
  EXPECT_TRUE(near(ours, a.grad(), 1e-10));
  // Of two ranks: sequences lie on one each.
  const at::Tensor shares =
      sequence_balance_loss({random_routing(a.narrow(0, 0, 8), top_k), random_routing(b.narrow(0, 0, 8), top_k)},
                            {0, 7, 8}, 20, top_k) +
      sequence_balance_loss({random_routing(a.narrow(0, 8, 12), top_k), random_routing(b.narrow(0, 8, 12), top_k)},
                            {0, 12}, 20, top_k);
  EXPECT_NEAR(shares.item<double>(), loss.item<double>(), 1e-12);
  const at::Tensor none = at::empty({0, experts}, at::kDouble);
  EXPECT_EQ(sequence_balance_loss({random_routing(none, top_k)}, {0}, 20, top_k).item<double>(), 0);
}

TEST(BalanceLossTest, OfCountsOfMoreTokensThanItsOwn) {
  const std::vector<RouterStats> first{random_routing(random_normal({12, 4}, 1), 2)},
      second{random_routing(random_normal({9, 4}, 2), 2)};
  const at::Tensor counts = counts_of(first) + counts_of(second);
  double expected = 0;
  for (int64_t e = 0; e < 4; ++e) {
    expected += 4 * (counts[0][e].item<double>() / (2. * 21)) *
                (second[0].routing.probabilities_TE.select(1, e).sum().item<double>() / 9);
  }
  EXPECT_NEAR(balance_loss(second, counts, 9, 2, 21).item<double>(), expected, 1e-12);
}

// llama-moe-v2 D3.
TEST(BalanceLossTest, AStepAgainstSkewedRoutingEvensTheLoad) {
  at::Tensor x = random_normal({400, 8}, 1);
  x.select(1, 0).fill_(1);
  at::Tensor start = random_normal({8, 8}, 2) * 0.5;
  start[0][0] = 2;  // every token likes expert 0
  const auto variation = [](const at::Tensor& counts) {
    return (counts.to(at::kDouble).std(0, /*unbiased=*/false) / counts.to(at::kDouble).mean()).item<double>();
  };
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    const at::Tensor router = start.clone().requires_grad_(true);
    const auto stats = [&] {
      const Routing routing = route(x, {router}, {2, TopkNorm::kRenorm, score});
      return stats_of(routing.expert_ids_TK, routing.probabilities_TE);
    };
    const std::vector<RouterStats> before{stats()};
    balance_loss(before, counts_of(before), 400, 2).backward();
    EXPECT_GT(testing::max_abs(router.grad()), 1e-3);
    {
      const at::NoGradGuard no_grad;
      router.sub_(router.grad() * 4);
    }
    EXPECT_LT(variation(stats().tokens_per_expert_E), 0.95 * variation(before.front().tokens_per_expert_E));
  }
}

double z_loss_written_out(const at::Tensor& logits) {
  double sum = 0;
  for (int64_t t = 0; t < logits.size(0); ++t) {
    double all = 0;
    for (int64_t e = 0; e < logits.size(1); ++e) all += std::exp(logits[t][e].item<double>());
    sum += std::log(all) * std::log(all);
  }
  return sum;
}

TEST(RouterZLossTest, IsTheMeanSquareOfTheLogSumExpAndItsGradientFiniteDifferences) {
  const at::Tensor a = random_normal({6, 4}, 1).requires_grad_(true), b = random_normal({6, 4}, 2);
  const at::Tensor loss = router_z_loss({random_routing(a, 2), random_routing(b, 2)}, 10);
  const double of_b = z_loss_written_out(b);
  EXPECT_NEAR(loss.item<double>(), (z_loss_written_out(a.detach()) + of_b) / 10 / 2, 1e-12);
  loss.backward();
  at::Tensor moved = a.detach().clone(), expected = at::zeros_like(moved);
  for (int64_t i = 0; i < moved.numel(); ++i) {
    at::Tensor flat = moved.view({-1});
    const double was = flat[i].item<double>(), step = 1e-6;
    flat[i] = was + step;
    const double up = z_loss_written_out(moved);
    flat[i] = was - step;
    expected.view({-1})[i] = (up - z_loss_written_out(moved)) / (2 * step) / 10 / 2;
    flat[i] = was;
  }
  EXPECT_TRUE(near(a.grad(), expected, 1e-8));
  EXPECT_EQ(router_z_loss({random_routing(at::empty({0, 4}, at::kDouble), 2)}, 10).item<double>(), 0);
}

}  // namespace
}  // namespace moe
