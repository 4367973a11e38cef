// router.init distilled: routers that are taught which experts give most.
#include "convert/distilled_router.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>

#include "convert/router_init_fixture.h"

namespace moe {
namespace {

using testing::features;
using testing::give_experts;
using testing::kExperts;
using testing::kHidden;
using testing::kTokens;
using testing::make_weights;
using testing::options_of;

TEST(DistilledTest, ChoosesTheMostActiveExpertsMoreOftenThanRandomRows) {
  const at::Tensor x = features();
  RouterRequest request{.experts = kExperts, .hidden_size = kHidden};
  FeedForwardWeights dense;
  give_experts(request, dense);
  const at::Tensor gate = at::matmul(x, dense.gate.t()),
                   h = (gate / (1 + (-gate).exp()) * at::matmul(x, dense.up.t())).abs().to(at::kDouble);
  const at::Tensor wanted = std::get<1>(at::topk(h.view({kTokens, kExperts, 10}).sum(2), 2, 1));
  const auto recall = [&](const RouterWeights& router, RouterGate gate_kind) {
    const at::Tensor chosen = std::get<1>(at::topk(router_logits(x, router, gate_kind), 2, 1));
    return chosen.unsqueeze(2).eq(wanted.unsqueeze(1)).sum().item<double>() / (2. * kTokens);
  };
  const double of_random =
      recall(make_weights("random_selection", "calibrated", 1, RouterGate::kLinear), RouterGate::kLinear);
  for (const RouterGate kind : {RouterGate::kLinear, RouterGate::kMlp}) {
    for (const char* loss : {"bce", "kl"}) {
      const double found = recall(
          make_weights("distilled", "calibrated", 1, kind, 0, 21, options_of("distilled", {{"loss", loss}})), kind);
      EXPECT_GT(found, of_random + 0.1) << loss;
    }
  }
}

/// What an expert is wanted by, and from which activations, by its definition.
TEST(DistilledTest, LearnsWhatItsOptionsSay) {
  RouterRequest request{.experts = kExperts, .hidden_size = kHidden};
  FeedForwardWeights dense;
  give_experts(request, dense);
  const at::Tensor x = features(), gate = at::matmul(x, dense.gate.t()).to(at::kDouble),
                   silu = gate / (1 + (-gate).exp());
  const std::map<std::string, at::Tensor> activations{{"product", silu * at::matmul(x, dense.up.t()).to(at::kDouble)},
                                                      {"gate", silu}};
  const std::map<std::string, std::function<at::Tensor(const at::Tensor&)>> measures{
      {"l1", [](const at::Tensor& a) { return a.abs().sum(2); }},
      {"l2", [](const at::Tensor& a) { return a.square().sum(2); }},
      {"positive", [](const at::Tensor& a) { return a.clamp_min(0).sum(2); }},
      {"plain", [](const at::Tensor& a) { return a.sum(2).abs(); }}};
  const auto recall = [&](const RouterWeights& router, const at::Tensor& wanted_TE) {
    const auto chosen = [](const at::Tensor& values) { return std::get<1>(at::topk(values, 2, 1)); };
    return chosen(router_logits(x, router, RouterGate::kLinear))
               .unsqueeze(2)
               .eq(chosen(wanted_TE).unsqueeze(1))
               .sum()
               .item<double>() /
           (2. * kTokens);
  };
  for (const auto& [activation, a] : activations) {
    for (const auto& [measure, of] : measures) {
      const at::Tensor wanted = of(a.view({kTokens, kExperts, 10}));
      const RouterWeights learned =
          make_weights("distilled", "raw", 1, RouterGate::kLinear, 0, 21,
                       options_of("distilled", {{"activation", activation}, {"measure", measure}}));
      const RouterWeights drawn = make_weights("random_selection", "raw", 1, RouterGate::kLinear);
      EXPECT_GT(recall(learned, wanted), recall(drawn, wanted) + 0.1) << activation << " " << measure;
      for (const auto& [other, of_other] : measures) {
        if (other == measure) continue;
        const RouterWeights of_another =
            make_weights("distilled", "raw", 1, RouterGate::kLinear, 0, 21,
                         options_of("distilled", {{"activation", activation}, {"measure", other}}));
        EXPECT_FALSE(at::equal(of_another.weight_ED, learned.weight_ED)) << measure << " " << other;
      }
    }
  }
}

TEST(DistilledTest, ReportsItsRecallAndIsTheSameAtAnyNumberOfRanks) {
  const RouterWeights one = make_weights("distilled", "raw", 1, RouterGate::kMlp);
  for (const int ranks : {2, 3}) {
    const RouterWeights many = make_weights("distilled", "raw", ranks, RouterGate::kMlp);
    EXPECT_TRUE(at::equal(many.weight_ED, one.weight_ED)) << ranks;
    EXPECT_TRUE(at::equal(many.out_weight_EE, one.out_weight_EE)) << ranks;
  }
  const at::Tensor all = features();
  const CalibrationFeatures mine{all, 0, kTokens};
  RouterRequest request{
      .experts = kExperts, .hidden_size = kHidden, .features = &mine, .options = options_of("distilled")};
  FeedForwardWeights dense;
  give_experts(request, dense);
  const InitialRouter made = router_inits().at("distilled").make(request, *make_self_communicator());
  ASSERT_TRUE(made.lessons.has_value());
  EXPECT_GT(made.lessons->recall, 2.0 / kExperts) << "chance";
  EXPECT_LE(made.lessons->recall, 1);
  EXPECT_NEAR(testing::logit_deviation(made.weights.weight_ED), 1, 1e-3) << "calibrated";
}

/// v1 4, 10: its curves. The router is that of the epoch with the best recall.
TEST(DistilledTest, TellsLossAndRecallOfEveryEpoch) {
  const at::Tensor all = features();
  const CalibrationFeatures mine{all, 0, kTokens};
  for (const char* loss : {"bce", "kl"}) {
    RouterRequest request{.experts = kExperts,
                          .hidden_size = kHidden,
                          .scaling = "raw",
                          .features = &mine,
                          .options = options_of("distilled", {{"loss", loss}, {"epochs", "12"}})};
    FeedForwardWeights dense;
    give_experts(request, dense);
    const RouterLessons lessons =
        router_inits().at("distilled").make(request, *make_self_communicator()).lessons.value();
    ASSERT_EQ(lessons.losses.size(), 13U) << "before the first, and after each";
    ASSERT_EQ(lessons.recalls.size(), 13U);
    EXPECT_EQ(*std::max_element(lessons.recalls.begin(), lessons.recalls.end()), lessons.recall);
    EXPECT_LT(lessons.losses.back(), lessons.losses.front()) << loss;
    for (const double value : lessons.losses) EXPECT_GT(value, 0) << loss;
  }
}

/// Of a router that was not taught: the definitions, on the tokens aside.
TEST(DistilledTest, TheFirstLossIsThatOfTheMeanDirections) {
  const at::Tensor all = features();
  const CalibrationFeatures mine{all, 0, kTokens};
  for (const bool is_kl : {false, true}) {
    RouterRequest request{.experts = kExperts,
                          .hidden_size = kHidden,
                          .scaling = "raw",
                          .features = &mine,
                          .options = options_of("distilled", {{"loss", is_kl ? "kl" : "bce"}, {"epochs", "1"}})};
    FeedForwardWeights dense;
    give_experts(request, dense);
    const RouterLessons lessons =
        router_inits().at("distilled").make(request, *make_self_communicator()).lessons.value();

    const at::Tensor aside = at::arange(19, kTokens, 20), x = all.index_select(0, aside).to(at::kDouble),
                     gate = at::matmul(x, dense.gate.to(at::kDouble).t()),
                     h = gate / (1 + (-gate).exp()) * at::matmul(x, dense.up.to(at::kDouble).t()),
                     wanted = h.abs().view({aside.size(0), kExperts, 10}).sum(2),
                     unit = dense.gate.to(at::kDouble) / dense.gate.to(at::kDouble).norm(2, 1, true),
                     logits = at::matmul(x, unit.view({kExperts, 10, kHidden}).mean(1).t());
    const at::Tensor hot = at::zeros_like(wanted).scatter(1, std::get<1>(at::topk(wanted, 2, 1)), 1),
                     p = wanted.softmax(1, at::kDouble),
                     loss = is_kl
                                ? (p * (wanted.log_softmax(1, at::kDouble) - logits.log_softmax(1, at::kDouble))).sum(1)
                                : ((1 + logits.exp()).log() - hot * logits).mean(1);
    EXPECT_NEAR(lessons.losses.front() / loss.mean().item<double>(), 1, 1e-5) << is_kl;
  }
}

}  // namespace
}  // namespace moe
