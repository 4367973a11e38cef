#include "model/moe/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "common/error.h"
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
  const Routing routing = route(x, {identity(4)}, {2});
  EXPECT_TRUE(routing.expert_ids_TK.equal(ids_of({0, 1, 2, 1, 0, 2}, 2))) << routing.expert_ids_TK;
}

TEST(RouterTest, ChoosesAsAFullSortWould) {
  const at::Tensor x = random_normal({200, 16}, 1, at::kFloat);
  for (const int64_t top_k : {1, 2, 5, 16}) {
    const Routing routing = route(x, {identity(16)}, {top_k});
    const at::Tensor sorted =
        std::get<1>(at::sort(x, /*stable=*/true, /*dim=*/1, /*descending=*/true)).narrow(1, 0, top_k);
    EXPECT_TRUE(routing.expert_ids_TK.equal(sorted)) << "top_k " << top_k;
  }
}

TEST(RouterTest, RenormedWeightsAreTheSoftmaxOfTheChosen) {
  const at::Tensor x = random_normal({50, 6}, 2), router = random_normal({8, 6}, 3);
  const Routing routing = route(x, {router}, {3});
  const at::Tensor p = at::softmax(at::matmul(x, router.t()), 1);
  EXPECT_TRUE(near(routing.probabilities_TE, p, 1e-12));
  const at::Tensor chosen = p.gather(1, routing.expert_ids_TK);
  EXPECT_TRUE(near(routing.weights_TK, chosen / chosen.sum(1, true), 1e-12));
}

TEST(RouterTest, RawWeightsAreTheSoftmaxOverAll) {
  const at::Tensor x = random_normal({50, 6}, 2), router = random_normal({8, 6}, 3);
  const Routing routing = route(x, {router}, {3, TopkNorm::kRaw});
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
    const Routing routing = route(x, {router}, {top_k, TopkNorm::kStraightThrough});
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
    *weights = route(logits, {at::eye(4, dtype)}, {3, TopkNorm::kStraightThrough}).weights_TK;
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

/// What a loss sees of a router's weights, by the formulas in plain loops: sum of c_tk w_tk, with log p in place of a
/// straight-through weight, and of d_te probabilities.
double written_out(const at::Tensor& z_TE, const at::Tensor& ids_TK, TopkNorm norm, RouterScore score,
                   const at::Tensor& gain_E, const at::Tensor& c_TK, const at::Tensor& d_TE) {
  double sum = 0;
  for (int64_t t = 0; t < z_TE.size(0); ++t) {
    const auto z = [&](int64_t e) { return z_TE[t][e].item<double>(); };
    const int64_t experts = z_TE.size(1), top_k = ids_TK.size(1);
    std::vector<double> p(static_cast<size_t>(experts));
    double all = 0, chosen = 0;
    for (int64_t e = 0; e < experts; ++e) all += std::exp(z(e));
    for (int64_t e = 0; e < experts; ++e)
      p[e] = score == RouterScore::kSoftmax ? std::exp(z(e)) / all : 1 / (1 + std::exp(-z(e)));
    all = 0;
    for (const double one : p) all += one;
    for (int64_t k = 0; k < top_k; ++k) chosen += p[ids_TK[t][k].item<int64_t>()];
    for (int64_t k = 0; k < top_k; ++k) {
      const int64_t e = ids_TK[t][k].item<int64_t>();
      double w = 1;
      if (norm == TopkNorm::kRenorm) w = p[e] / chosen;
      if (norm == TopkNorm::kRaw) w = p[e];
      if (norm == TopkNorm::kStraightThrough) w = std::log(p[e]);
      if (norm == TopkNorm::kOnePlus) w = 1 + gain_E[e].item<double>() * p[e];
      sum += c_TK[t][k].item<double>() * w;
    }
    for (int64_t e = 0; e < experts; ++e) sum += d_TE[t][e].item<double>() * p[e] / all;
  }
  return sum;
}

TEST(RouterTest, WeightsOfEveryScoreAndNormAreTheFormulasAndTheirGradientsFiniteDifferences) {
  const int64_t tokens = 5, experts = 6, top_k = 3;
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    for (const TopkNorm norm :
         {TopkNorm::kRenorm, TopkNorm::kRaw, TopkNorm::kStraightThrough, TopkNorm::kUnit, TopkNorm::kOnePlus}) {
      SCOPED_TRACE(::testing::Message() << "score " << static_cast<int>(score) << ", norm " << static_cast<int>(norm));
      const at::Tensor z = random_normal({tokens, experts}, 1).requires_grad_(true),
                       gain = random_normal({experts}, 2).requires_grad_(true), c = random_normal({tokens, top_k}, 3),
                       d = random_normal({tokens, experts}, 4);
      const Routing routing =
          route(z, {.weight_ED = at::eye(experts, at::kDouble), .gain_E = gain}, {top_k, norm, score});
      const at::Tensor& ids = routing.expert_ids_TK;
      EXPECT_TRUE(at::equal(ids, std::get<1>(at::topk(z.detach(), top_k, 1))));
      (((routing.weights_TK * c).sum() + (routing.probabilities_TE * d).sum())).backward();
      EXPECT_NEAR(routing.probabilities_TE.sum(1).min().item<double>(), 1, 1e-12);
      const auto value = [&](const at::Tensor& at_z, const at::Tensor& at_gain) {
        return written_out(at_z, ids, norm, score, at_gain, c, d);
      };
      if (norm != TopkNorm::kStraightThrough) {
        EXPECT_NEAR(((routing.weights_TK * c).sum() + (routing.probabilities_TE * d).sum()).item<double>(),
                    value(z.detach(), gain.detach()), 1e-12);
      }
      constexpr double kStep = 1e-6;
      at::Tensor expected = at::zeros_like(z).detach(), expected_gain = at::zeros_like(gain).detach();
      const auto difference = [&](const at::Tensor& moved, at::Tensor into) {
        at::Tensor flat = moved.view({-1}), gradient = into.view({-1});
        const at::Tensor z_now = moved.dim() == 2 ? moved : z.detach(),
                         gain_now = moved.dim() == 1 ? moved : gain.detach();
        for (int64_t i = 0; i < flat.numel(); ++i) {
          const double was = flat[i].item<double>();
          flat[i] = was + kStep;
          const double up = value(z_now, gain_now);
          flat[i] = was - kStep;
          gradient[i] = (up - value(z_now, gain_now)) / (2 * kStep);
          flat[i] = was;
        }
      };
      difference(z.detach().clone(), expected);
      EXPECT_TRUE(near(z.grad(), expected, 1e-7)) << z.grad() << expected;
      EXPECT_EQ(routing.weights_TK.requires_grad(), norm != TopkNorm::kUnit);
      EXPECT_EQ(gain.grad().defined(), norm == TopkNorm::kOnePlus);
      if (norm != TopkNorm::kOnePlus) continue;
      difference(gain.detach().clone(), expected_gain);
      EXPECT_TRUE(near(gain.grad(), expected_gain, 1e-7));
    }
  }
}

// llama-moe-v2 D6: renormalised, the only expert of a token has the weight 1 whatever the router says.
TEST(RouterTest, RenormalisedTopOneTeachesTheRouterNothing) {
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    for (const TopkNorm norm : {TopkNorm::kRenorm, TopkNorm::kStraightThrough}) {
      const at::Tensor router = random_normal({5, 6}, 5).requires_grad_(true);
      const Routing routing = route(random_normal({20, 6}, 4), {router}, {1, norm, score});
      (routing.weights_TK * random_normal({20, 1}, 6)).sum().backward();
      if (norm == TopkNorm::kRenorm) {
        EXPECT_LE(testing::max_abs(router.grad()), 1e-12);
      } else {
        EXPECT_GT(testing::max_abs(router.grad()), 0.1);
      }
    }
  }
}

// Unit weights, and 1 + gain * p before the gains are trained, are 1 to the bit; the gains then learn.
TEST(RouterTest, WeightsThatBeginAtOne) {
  const at::Tensor x = random_normal({20, 6}, 4, at::kFloat), router = random_normal({5, 6}, 5, at::kFloat);
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    EXPECT_TRUE(route(x, {router}, {2, TopkNorm::kUnit, score}).weights_TK.eq(1).all().item<bool>());
    EXPECT_TRUE(route(x, {router}, {2, TopkNorm::kOnePlus, score}).weights_TK.eq(1).all().item<bool>());
    const at::Tensor gain = at::zeros({5}).requires_grad_(true);
    const Routing routing = route(x, {.weight_ED = router, .gain_E = gain}, {2, TopkNorm::kOnePlus, score});
    EXPECT_TRUE(routing.weights_TK.eq(1).all().item<bool>());
    routing.weights_TK.sum().backward();
    EXPECT_GT(gain.grad().min().item<double>(), 0.01);
  }
}

TEST(RouterTest, SigmoidsThatUnderflowStillRenormalise) {
  const at::Tensor logits = at::tensor({-200.f, -201.f, -300.f, /**/ 200.f, 0.f, -200.f}).view({2, 3});
  const Routing routing = route(logits, {identity(3)}, {2, TopkNorm::kRenorm, RouterScore::kSigmoid});
  const double low = 1 / (1 + std::exp(-1.0));
  EXPECT_TRUE(near(routing.weights_TK, at::tensor({low, 1 - low, /**/ 2. / 3, 1. / 3}, at::kDouble).view({2, 2}), 1e-6))
      << routing.weights_TK;
  EXPECT_TRUE(near(routing.probabilities_TE.sum(1), at::ones({2}), 1e-6));
}

// The choice sees the bias, nothing else does.
TEST(RouterTest, ASelectionBiasMovesTheChoiceAlone) {
  const at::Tensor z = random_normal({50, 6}, 7), bias = random_normal({6}, 8) * 0.2;
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    const at::Tensor leaf = bias.clone().requires_grad_(true);
    const Routing plain = route(z, {at::eye(6, at::kDouble)}, {2, TopkNorm::kRaw, score}),
                  biased = route(z, {.weight_ED = at::eye(6, at::kDouble), .selection_bias_E = leaf},
                                 {2, TopkNorm::kRaw, score});
    const at::Tensor p = score == RouterScore::kSoftmax ? at::softmax(z, 1) : 1 / (1 + (-z).exp());
    const at::Tensor ids = std::get<1>(at::topk(p + bias, 2, 1));
    EXPECT_TRUE(at::equal(biased.expert_ids_TK, ids));
    EXPECT_GT(biased.expert_ids_TK.ne(plain.expert_ids_TK).sum().item<int64_t>(), 10);
    EXPECT_TRUE(near(biased.weights_TK, p.gather(1, ids), 1e-12));
    EXPECT_TRUE(near(biased.scores_TE, p, 1e-12));
    EXPECT_FALSE(plain.scores_TE.defined());
    EXPECT_TRUE(at::equal(biased.probabilities_TE, plain.probabilities_TE));
    EXPECT_FALSE(biased.weights_TK.requires_grad());
    const Routing with_zeros =
        route(z, {.weight_ED = at::eye(6, at::kDouble), .selection_bias_E = at::zeros({6}, at::kDouble)},
              {2, TopkNorm::kRaw, score});
    EXPECT_TRUE(at::equal(with_zeros.expert_ids_TK, plain.expert_ids_TK));
  }
}

TEST(RouterTest, NoTokens) {
  const Routing routing = route(at::empty({0, 6}), {random_normal({5, 6}, 1, at::kFloat)}, {2});
  EXPECT_EQ(routing.weights_TK.sizes(), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(routing.expert_ids_TK.sizes(), (std::vector<int64_t>{0, 2}));
}

TEST(RouterTest, UnknownNormIsRefusedByName) {
  EXPECT_THROW(parse_topk_norm("none"), InvalidArgument);
  EXPECT_THROW(parse_router_score("tanh"), InvalidArgument);
}

}  // namespace
}  // namespace moe
