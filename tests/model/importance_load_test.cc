#include "model/moe/importance_load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "common/error.h"
#include "model/moe/router_noise.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

/// The routing of a layer, with its counts.
RouterStats stats_of(Routing routing) {
  const at::Tensor ids = routing.expert_ids_TK.flatten();
  const int64_t experts = routing.logits_TE.size(1);
  RouterStats stats{at::zeros({experts}, at::kLong).scatter_add(0, ids, at::ones_like(ids)),
                    routing.probabilities_TE.sum(0)};
  stats.routing = std::move(routing);
  return stats;
}

at::Tensor loss_of(const std::vector<RouterStats>& layers, LoadEstimator estimator = LoadEstimator::kExact) {
  const at::Tensor sums = importance_and_load(layers, estimator);
  return importance_load_loss(sums, sums.detach());
}

/// Of sums as they are: twice what the squared variation of them is.
double variation_of(std::vector<double> sums) {
  const auto count = static_cast<int64_t>(sums.size());
  const at::Tensor both = at::tensor(sums, at::kDouble).view({1, 1, count}).expand({2, 1, count});
  return importance_load_loss(both, both).item<double>() / 2;
}

/// One token whose logits are these, with noise of the width at W_noise = 0 whose draws are 0.
RouterStats golden_token(bool is_training) {
  const at::Tensor logits = at::tensor({2., 1., 0., -1.}, at::kDouble).view({1, 4});
  return stats_of(
      route(logits, {.weight_ED = at::eye(4, at::kDouble), .noise_weight_ED = at::zeros({4, 4}, at::kDouble)},
            {.top_k = 2, .noise = RouterNoise::kLearned}, is_training ? at::zeros({1, 4}, at::kDouble) : at::Tensor()));
}

// llama-moe-v1 T10.
TEST(ImportanceLoadTest, GoldenNumbersOfOneToken) {
  const RouterStats training = golden_token(true), evaluation = golden_token(false);
  EXPECT_TRUE(near(training.routing.weights_TK, at::tensor({0.7310586, 0.2689414}, at::kDouble).view({1, 2}), 1e-7));
  EXPECT_NEAR(training.routing.noise_width_TE[0][0].item<double>(), 0.703147, 1e-6);
  const at::Tensor exact = importance_and_load({training}, LoadEstimator::kExact),
                   reference = importance_and_load({training}, LoadEstimator::kReferenceV1),
                   hard = importance_and_load({evaluation}, LoadEstimator::kExact);
  EXPECT_TRUE(near(exact[1][0], at::tensor({0.997775, 0.922513, 0.077487, 0.002225}, at::kDouble), 1e-6)) << exact;
  EXPECT_TRUE(near(reference[1][0], at::tensor({0.922513, 0.5, 0.077487, 0.002225}, at::kDouble), 1e-6)) << reference;
  EXPECT_TRUE(near(hard[1][0], at::tensor({1., 1., 0., 0.}, at::kDouble), 1e-12));
  EXPECT_NEAR(variation_of({0.7310586, 0.2689414, 0, 0}), 1.902806, 1e-6);
  EXPECT_NEAR(variation_of({0.997775, 0.922513, 0.077487, 0.002225}), 1.136791, 2e-6);
  EXPECT_NEAR(variation_of({0.922513, 0.5, 0.077487, 0.002225}), 1.282991, 2e-6);
  EXPECT_NEAR(0.01 * loss_of({training}).item<double>(), 0.0303960, 1e-7);
  EXPECT_NEAR(0.01 * loss_of({training}, LoadEstimator::kReferenceV1).item<double>(), 0.0318580, 1e-7);
  EXPECT_NEAR(0.01 * loss_of({evaluation}).item<double>(), 0.0323614, 1e-7);
  EXPECT_FALSE(evaluation.routing.noise_width_TE.defined());
}

// llama-moe-v1 T11. All tokens on the same K of E experts at weights 1 / K, without noise.
TEST(ImportanceLoadTest, GoldenNumbersOfCollapseAndOfEvenRouting) {
  EXPECT_NEAR(variation_of({1, 3}), 0.5, 1e-9);
  EXPECT_NEAR(variation_of({1, 2, 3, 4}), 0.2666667, 1e-7);
  EXPECT_EQ(variation_of({7}), 0);
  struct Collapse {
    int64_t experts, top_k;
    double loss;
  };
  for (const Collapse& c : {Collapse{8, 2, 0.0685714}, {16, 4, 0.0640000}, {16, 2, 0.1493333}}) {
    at::Tensor x = at::zeros({12, c.experts}, at::kDouble);
    x.narrow(1, 0, c.top_k).fill_(5);
    const RouterStats stats = stats_of(route(x, {at::eye(c.experts, at::kDouble)}, {c.top_k}));
    EXPECT_NEAR(0.01 * loss_of({stats}).item<double>(), c.loss, 1e-7) << c.top_k << " of " << c.experts;
    EXPECT_NEAR(0.01 * loss_of({stats, stats}).item<double>(), 2 * c.loss, 2e-7) << "summed over layers";
    // Each expert is the first choice of one token and the second of another: even.
    const at::Tensor ring = at::eye(c.experts, at::kDouble) + at::eye(c.experts, at::kDouble).roll(1, 1);
    EXPECT_NEAR(loss_of({stats_of(route(ring, {at::eye(c.experts, at::kDouble)}, {2}))}).item<double>(), 0, 1e-12);
  }
}

// T11: gradients against finite differences, that of W_noise at 0 too, which is not zero.
TEST(ImportanceLoadTest, GradientsAreFiniteDifferences) {
  constexpr int64_t kTokens = 9, kHidden = 5, kExperts = 6, kTopK = 2;
  for (const LoadEstimator estimator : {LoadEstimator::kExact, LoadEstimator::kReferenceV1}) {
    const at::Tensor x = random_normal({kTokens, kHidden}, 1), draws = random_normal({kTokens, kExperts}, 2);
    std::vector<at::Tensor> leaves{random_normal({kExperts, kHidden}, 3), random_normal({kExperts, kExperts}, 4),
                                   at::zeros({kExperts, kHidden}, at::kDouble)};
    const auto loss = [&] {
      const RouterWeights weights{.weight_ED = leaves[0], .out_weight_EE = leaves[1], .noise_weight_ED = leaves[2]};
      const RouterOptions options{.top_k = kTopK, .gate = RouterGate::kMlp, .noise = RouterNoise::kLearned};
      return loss_of({stats_of(route(x, weights, options, draws))}, estimator);
    };
    for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
    loss().backward();
    for (size_t i = 0; i < leaves.size(); ++i) {
      const at::NoGradGuard no_grad;
      at::Tensor expected = at::zeros_like(leaves[i]), flat = leaves[i].view({-1}), into = expected.view({-1});
      constexpr double kStep = 1e-6;
      for (int64_t j = 0; j < flat.numel(); ++j) {
        const double was = flat[j].item<double>();
        flat[j] = was + kStep;
        const double up = loss().item<double>();
        flat[j] = was - kStep;
        into[j] = (up - loss().item<double>()) / (2 * kStep);
        flat[j] = was;
      }
      EXPECT_TRUE(near(leaves[i].grad(), expected, 1e-6)) << "weight " << i << leaves[i].grad() << expected;
      EXPECT_GT(testing::max_abs(leaves[i].grad()), 1e-3) << "weight " << i;
    }
  }
}

// llama-moe-v1 T12.
TEST(ImportanceLoadTest, LoadsSumToTheChoices) {
  constexpr int64_t kTokens = 20000, kExperts = 8, kTopK = 2;
  for (const double scale : {0., 1., 4.}) {
    const at::Tensor logits = random_normal({kTokens, kExperts}, 1) * scale;
    const RouterWeights weights{.weight_ED = at::eye(kExperts, at::kDouble),
                                .noise_weight_ED = at::zeros({kExperts, kExperts}, at::kDouble)};
    const RouterStats stats = stats_of(route(logits, weights, {.top_k = kTopK, .noise = RouterNoise::kLearned},
                                             noise_draws({.seed = 3}, RouterNoise::kLearned, 0, kTokens, kExperts)));
    const at::Tensor sums = importance_and_load({stats}, LoadEstimator::kExact);
    EXPECT_NEAR(sums[1].sum().item<double>() / kTokens, 2, 0.02) << "logits times " << scale;
    EXPECT_NEAR(sums[0].sum().item<double>(), 20000, 1e-6) << "weights of a token sum to 1";
    EXPECT_EQ(stats.tokens_per_expert_E.sum().item<int64_t>(), 40000);
    if (scale != 0) continue;
    // Each expert is chosen by a quarter: chi squared of 7 degrees of freedom, p > 0.001.
    const at::Tensor counts = stats.tokens_per_expert_E.to(at::kDouble);
    EXPECT_LT(((counts - 5000).square() / 5000).sum().item<double>(), 24.32);
  }
}

// Gradients of the ranks sum to that of all tokens on one.
TEST(ImportanceLoadTest, SharesOfRanksHaveTheGradientOfAllTokens) {
  const at::Tensor logits = random_normal({30, 6}, 1).requires_grad_(true), draws = random_normal({30, 6}, 2);
  const RouterWeights weights{.weight_ED = at::eye(6, at::kDouble), .noise_weight_ED = random_normal({6, 6}, 3)};
  const auto sums = [&](int64_t first, int64_t count) {
    return importance_and_load(
        {stats_of(route(logits.narrow(0, first, count), weights, {.top_k = 2, .noise = RouterNoise::kLearned},
                        draws.narrow(0, first, count)))},
        LoadEstimator::kExact);
  };
  const at::Tensor whole = sums(0, 30), loss = importance_load_loss(whole, whole.detach());
  loss.backward();
  const at::Tensor expected = logits.grad().clone();
  logits.mutable_grad() = at::Tensor();
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 11}, {11, 19}, {30, 0}}) {
    const at::Tensor part = importance_load_loss(sums(first, count), whole.detach());
    EXPECT_NEAR(part.item<double>(), loss.item<double>(), 1e-12);
    part.backward();
  }
  EXPECT_TRUE(near(logits.grad(), expected, 1e-12));
}

TEST(ImportanceLoadTest, UnknownEstimatorIsRefusedByName) {
  EXPECT_THROW(parse_load_estimator("v1"), InvalidArgument);
}

}  // namespace
}  // namespace moe
