// What the analyses of routing make of choices written down by hand.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "eval/analyses.h"
#include "eval/analyses/routing_similarity.h"
#include "eval/analysis_fixture.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::one_mixture;
using testing::result_of;

Routing routed(const std::vector<int64_t>& ids, int64_t top_k, const std::vector<double>& probabilities) {
  const auto tokens = static_cast<int64_t>(ids.size()) / top_k;
  Routing routing;
  routing.expert_ids_TK = at::tensor(ids, at::kLong).view({tokens, top_k});
  routing.weights_TK = at::full({tokens, top_k}, 0.5, at::kDouble);
  routing.probabilities_TE = at::tensor(probabilities, at::kDouble).unsqueeze(0).expand({tokens, -1});
  return routing;
}

void see(TextAnalysis& analysis, const std::vector<Routing>& routers, const TextPieces& pieces) {
  std::vector<const Routing*> all;
  for (const Routing& routing : routers) all.push_back(&routing);
  analysis.see_routing(all, pieces);
}

/// Four tokens of a to the experts 0, 0, 1, 2 and two of b to 3.
json hand_made(const std::string& analysis_name) {
  const ModelConfig config = one_mixture(4, 1);
  const auto analysis = analyses().at(analysis_name).of_text({config, {"a", "b"}});
  see(*analysis, {routed({0, 0, 1, 2, 3, 3}, 1, {0.5, 0.25, 0.125, 0.125})},
      {{.row = 0, .domain = 0, .first = 0, .last = 4}, {.row = 0, .domain = 1, .first = 4, .last = 6}});
  return result_of(*analysis);
}

TEST(RoutingAnalysisTest, CountsLoadsByDomain) {
  const json result = hand_made("routing");
  ASSERT_EQ(result["routers"].size(), 1U);
  const json router = result["routers"][0], a = router["domains"]["a"], b = router["domains"]["b"];
  EXPECT_EQ(router["layer"], 0);
  EXPECT_EQ(router["part"], "ffn");
  EXPECT_EQ(a["tokens"], 4);
  EXPECT_EQ(a["load"], json({2, 1, 1, 0}));
  EXPECT_EQ(b["load"], json({0, 0, 0, 2}));
  EXPECT_EQ(router["all"]["load"], json({2, 1, 1, 2}));
  EXPECT_EQ(a["weight_sum"], json({1.0, 0.5, 0.5, 0.0}));
  EXPECT_EQ(b["probability"], json({0.5, 0.25, 0.125, 0.125}));
  EXPECT_EQ(a["load_max_over_mean"], 2);
  EXPECT_EQ(a["load_min_over_mean"], 0);
  EXPECT_EQ(b["load_max_over_mean"], 4);
  // Loads 2, 1, 1, 0 lie 1, 0, 0 and 1 from their mean of 1.
  EXPECT_DOUBLE_EQ(a["load_variation"], std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(a["entropy"], 1.75 * std::numbers::ln2);
  EXPECT_EQ(a["margin"], 0.25);
  EXPECT_TRUE(a["local_consistency"].is_null()) << "no domain has 16 tokens in a row";
  // Shares .5 .25 .25 0 of a, 0 0 0 1 of b: variances .0625, .015625, .015625 and .25.
  EXPECT_EQ(router["specialisation"], 0.34375);
}

TEST(RoutingAnalysisTest, LossesOfEachRouter) {
  const json router = hand_made("routing")["routers"][0], a = router["domains"]["a"], b = router["domains"]["b"];
  // 4 x (1/2 x 1/2 + 1/4 x 1/4 + 1/4 x 1/8), and 4 x 1/8 where all go to the last.
  EXPECT_DOUBLE_EQ(a["balance_loss"], 1.375);
  EXPECT_DOUBLE_EQ(b["balance_loss"], 0.5);
  // Loads 2, 1, 1, 0: variance 2/3 of three degrees of freedom, mean 1. The weights are half of them.
  EXPECT_NEAR(a["load_loss"], 2.0 / 3, 1e-9);
  EXPECT_NEAR(a["importance_loss"], 2.0 / 3, 1e-9);
  EXPECT_NEAR(router["all"]["load_loss"], 4.0 / 27, 1e-9);
  EXPECT_FALSE(a.contains("visible_keys")) << "an FFN sees no keys";
  EXPECT_FALSE(router.contains("coactivation")) << "of one choice a token";
}

TEST(RoutingAnalysisTest, CountsExpertsThatAreChosenTogether) {
  const ModelConfig config = one_mixture(4, 2);
  const auto analysis = analyses().at("routing").of_text({config, {"a"}});
  see(*analysis, {routed({0, 1, 1, 0, 2, 0, 3, 1}, 2, {0.4, 0.3, 0.2, 0.1})},
      {{.row = 0, .domain = 0, .first = 0, .last = 3}, {.row = 0, .domain = 0, .first = 3, .last = 4}});
  const json result = result_of(*analysis), router = result["routers"][0];
  EXPECT_EQ(router["coactivation"], json({{3, 2, 1, 0}, {2, 3, 0, 1}, {1, 0, 1, 0}, {0, 1, 0, 1}}));
  const std::vector<Figure> figures = analyses().at("routing").figures(result);
  EXPECT_EQ(figures.back().name, "together-0");
  EXPECT_TRUE(std::isnan(figures.back().values[0][0]));
  EXPECT_EQ(figures.back().values[0][1], 2);
}

// Of three routed experts of attention, of a sequence of four tokens and one of a token.
TEST(RoutingAnalysisTest, VisibleKeysAreThoseOfTheChosenExpert) {
  ModelConfig config = testing::with_attention_experts(testing::tiny_config(), 4, 1, 1);
  const TextPieces pieces{{.row = 0, .domain = 0, .first = 0, .last = 4},
                          {.row = 0, .domain = 1, .first = 4, .last = 5}};
  const std::vector<Routing> routings{routed({0, 0, 1, 0, 1}, 1, {0.5, 0.3, 0.2}),
                                      routed({2, 2, 2, 2, 2}, 1, {0.2, 0.3, 0.5})};
  const auto analysis = analyses().at("routing").of_text({config, {"a", "b"}});
  see(*analysis, routings, pieces);
  const json routers = result_of(*analysis)["routers"];
  // 1 of 1, 2 of 2, 1 of 3 and 3 of 4.
  EXPECT_DOUBLE_EQ(routers[0]["domains"]["a"]["visible_keys"], (1 + 1 + 1.0 / 3 + 0.75) / 4);
  EXPECT_EQ(routers[0]["domains"]["b"]["visible_keys"], 1) << "the first token of a sequence sees itself alone";
  EXPECT_EQ(routers[1]["all"]["visible_keys"], 1);
  config.moe->attention->kv_mode = "dense";
  const auto dense = analyses().at("routing").of_text({config, {"a", "b"}});
  see(*dense, routings, pieces);
  EXPECT_EQ(result_of(*dense)["routers"][0]["all"]["visible_keys"], 1);
}

TEST(RoutingAnalysisTest, LocalConsistencyIsTheShareOfAWindowsOwnTopK) {
  const ModelConfig config = one_mixture(4, 2);
  const auto analysis = analyses().at("routing").of_text({config, {"a"}});
  std::vector<int64_t> ids;
  for (int t = 0; t < 24; ++t) ids.insert(ids.end(), {0, 1});   // the first window is all 0 and 1
  for (int t = 24; t < 40; ++t) ids.insert(ids.end(), {3, 2});  // the second is half 0 and 1, half 2 and 3
  see(*analysis, {routed(ids, 2, {0.4, 0.3, 0.2, 0.1})}, {{.row = 0, .domain = 0, .first = 0, .last = 40}});
  // 32 of 32 choices, and 16 of 32; eight tokens make no window.
  EXPECT_EQ(result_of(*analysis)["routers"][0]["all"]["local_consistency"], 0.75);
}

TEST(RoutingAnalysisTest, WindowsDoNotCrossSamples) {
  const ModelConfig config = one_mixture(2, 1);
  const auto analysis = analyses().at("routing").of_text({config, {"a"}});
  see(*analysis, {routed(std::vector<int64_t>(20, 0), 1, {0.6, 0.4})},
      {{.row = 0, .domain = 0, .first = 0, .last = 10}, {.row = 0, .domain = 0, .first = 10, .last = 20}});
  EXPECT_TRUE(result_of(*analysis)["routers"][0]["all"]["local_consistency"].is_null());
}

// Of the baseline: how far the model still makes its choices.
TEST(RoutingAnalysisTest, AgreementIsTheShareOfChoicesThatTheModelMakesToo) {
  const ModelConfig config = one_mixture(4, 2);
  const auto of_model = analyses().at("routing").of_text({config, {"a", "b"}});
  const auto of_baseline = analyses().at("routing").of_text({config, {"a", "b"}, of_model.get()});
  const std::vector<double> p{0.4, 0.3, 0.2, 0.1};
  const TextPieces first{{.row = 0, .domain = 0, .first = 0, .last = 2}},
      second{{.row = 1, .domain = 0, .first = 0, .last = 1}, {.row = 1, .domain = 1, .first = 1, .last = 2}};
  see(*of_model, {routed({0, 1, 2, 3}, 2, p)}, first);
  see(*of_model, {routed({0, 1, 3, 0}, 2, p)}, second);
  see(*of_baseline, {routed({1, 0, 2, 1}, 2, p)}, first);
  see(*of_baseline, {routed({2, 3, 0, 2}, 2, p)}, second);
  const json router = result_of(*of_baseline)["routers"][0];
  EXPECT_EQ(router["domains"]["a"]["agreement"], 0.5) << "two of two, one of two, none of two";
  EXPECT_EQ(router["domains"]["b"]["agreement"], 0.5);
  EXPECT_EQ(router["all"]["agreement"], 0.5);
  EXPECT_FALSE(result_of(*of_model)["routers"][0]["all"].contains("agreement"));
}

TEST(RoutingAnalysisTest, GatesGetTheWorstLayer) {
  const std::map<std::string, double> metrics = analyses().at("routing").metrics(hand_made("routing"));
  EXPECT_DOUBLE_EQ(metrics.at("worst_load_over_mean"), 2 / 1.5);
  EXPECT_DOUBLE_EQ(metrics.at("least_load_over_mean"), 1 / 1.5);
  EXPECT_EQ(metrics.at("dead_expert_fraction"), 0);
  EXPECT_EQ(metrics.at("router_margin"), 0.25);
}

TEST(RoutingSimilarityTest, ComparesLoadsStretchedOrOverTheirGreatest) {
  // [1, .5, .5, 0] and [0, 0, 0, 1], both ways.
  EXPECT_DOUBLE_EQ(load_difference({2, 1, 1, 0}, {0, 0, 0, 2}), std::sqrt(2.5));
  EXPECT_DOUBLE_EQ(load_similarity({2, 1, 1, 0}, {0, 0, 0, 2}), 1 - std::sqrt(2.5));
  // The least is 0 in one, and what it is of the greatest in the other.
  EXPECT_DOUBLE_EQ(load_difference({3, 1}, {2, 1}), 0);
  EXPECT_DOUBLE_EQ(load_similarity({4, 1}, {2, 1}), 0.75);
  EXPECT_EQ(load_similarity({4, 1}, {8, 2}), 1);
  EXPECT_EQ(load_difference({5, 5}, {5, 5}), 0);
  EXPECT_EQ(load_similarity({0, 0}, {0, 0}), 1);
}

TEST(RoutingSimilarityTest, ComparesLoadsByAngleAndByShares) {
  EXPECT_DOUBLE_EQ(load_cosine({3, 4}, {4, 3}), 24.0 / 25);
  EXPECT_EQ(load_cosine({4, 1}, {8, 2}), 1);
  EXPECT_EQ(load_cosine({2, 1, 0}, {0, 0, 5}), 0);
  EXPECT_EQ(load_cosine({0, 0}, {1, 1}), 0);
  // Shares 3/4 1/4 and 1/4 3/4.
  EXPECT_DOUBLE_EQ(load_share_difference({3, 1}, {2, 6}), std::sqrt(0.5));
  EXPECT_EQ(load_share_difference({4, 1}, {8, 2}), 0);
  EXPECT_DOUBLE_EQ(load_share_difference({7, 0}, {0, 2}), std::numbers::sqrt2);
  EXPECT_EQ(load_share_difference({0, 0}, {0, 0}), 0);
}

TEST(RoutingSimilarityTest, ChoicesAreAlikeWhateverTheExpertsNumbersAre) {
  EXPECT_DOUBLE_EQ(choice_similarity({0, 5, 5, 0}, 2, 2), 1);
  EXPECT_EQ(choice_similarity({4, 4, 4, 4}, 2, 2), 0);
  EXPECT_EQ(choice_similarity({4, 4, 0, 0}, 2, 2), 0) << "one of them is always the same";
  EXPECT_EQ(choice_similarity({0, 0, 0, 0}, 2, 2), 0);
  // ln 4 less the entropy of 3/8, 1/8, 1/8, 3/8, over ln 2.
  EXPECT_NEAR(choice_similarity({3, 1, 1, 3}, 2, 2), 0.1887218755, 1e-9);
}

TEST(RoutingSimilarityTest, TellsDomainsAndExpertsApart) {
  const json result = hand_made("routing_similarity"), router = result["routers"][0];
  EXPECT_EQ(router["domain_difference"], json({{0.0, std::sqrt(2.5)}, {std::sqrt(2.5), 0.0}}));
  EXPECT_DOUBLE_EQ(router["mean_domain_similarity"], 1 - std::sqrt(2.5));
  EXPECT_EQ(router["domain_cosine"], json({{1.0, 0.0}, {0.0, 1.0}}));
  // Shares 1/2, 1/4, 1/4, 0 and 0, 0, 0, 1: the root of 3/8 and 1.
  EXPECT_DOUBLE_EQ(router["domain_share_difference"][0][1], std::sqrt(1.375));
  EXPECT_EQ(router["domains_of_experts"], json({{1.0, 0.0}, {1.0, 0.0}, {1.0, 0.0}, {0.0, 1.0}}));
  EXPECT_EQ(result["layer_similarity"], json({{1.0}}));
  EXPECT_EQ(analyses().at("routing_similarity").metrics(result).at("layer_similarity"), 1);
}

TEST(RoutingSimilarityTest, LayersByTheirFirstChoices) {
  const ModelConfig config = testing::tiny_moe_config(2, 1, 12);
  const auto analysis = analyses().at("routing_similarity").of_text({config, {"a"}});
  see(*analysis, {routed({0, 0, 1, 1}, 1, {0.6, 0.4}), routed({1, 1, 0, 0}, 1, {0.6, 0.4})},
      {{.row = 0, .domain = 0, .first = 0, .last = 4}});
  const json similarity = result_of(*analysis)["layer_similarity"];
  EXPECT_EQ(similarity[0][0], 1);
  EXPECT_DOUBLE_EQ(similarity[0][1], 1);
  EXPECT_EQ(similarity[1][0], similarity[0][1]);
}

}  // namespace
}  // namespace moe
