// What each analysis of neurons and outputs makes of those written down by hand; those of routing are in
// routing_analyses_test.cc.

#include "eval/analyses.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "common/measures.h"
#include "eval/analyses/neuron_overlap.h"
#include "eval/analysis_fixture.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::one_mixture;
using testing::result_of;

// T8 of the published analysis.
TEST(NeuronOverlapTest, IdenticalAndDisjointExperts) {
  const NeuronOverlap same = neuron_overlap_of({{4, 2, 7}, {2, 4, 7}, {7, 4, 2}, {2, 7, 4}});
  for (const std::vector<double>& row : same.jaccard) EXPECT_THAT(row, Each(1.0));
  EXPECT_EQ(same.mean_jaccard, 1);
  EXPECT_EQ(same.duplicate_rate, 0.75);
  EXPECT_EQ(same.distinct, 3);
  EXPECT_THAT(same.times, ElementsAre(0, 0, 0, 3));

  const NeuronOverlap apart = neuron_overlap_of({{0, 3}, {1, 4}, {2, 5}});
  EXPECT_THAT(apart.jaccard[1], ElementsAre(0, 1, 0));
  EXPECT_EQ(apart.mean_jaccard, 0);
  EXPECT_EQ(apart.duplicate_rate, 0);
  EXPECT_THAT(apart.times, ElementsAre(6, 0, 0));
}

// The experts of the published example of sharing_inner.
TEST(NeuronOverlapTest, PairsThatShareOneOfThree) {
  const NeuronOverlap overlap = neuron_overlap_of({{0, 1}, {0, 2}, {1, 2}});
  EXPECT_DOUBLE_EQ(overlap.jaccard[0][2], 1.0 / 3);
  EXPECT_DOUBLE_EQ(overlap.mean_jaccard, 1.0 / 3);
  EXPECT_EQ(overlap.distinct, 3);
  EXPECT_EQ(overlap.duplicate_rate, 0.5);
  EXPECT_THAT(overlap.times, ElementsAre(0, 3, 0));
  EXPECT_THAT(overlap.chosen[1], ElementsAre(2, 2, 2));
}

TEST(NeuronOverlapTest, OneExpertAndNeuronsThatItNamesTwice) {
  const NeuronOverlap overlap = neuron_overlap_of({{1, 2, 2, 1}});
  EXPECT_EQ(overlap.mean_jaccard, 0);
  EXPECT_EQ(overlap.duplicate_rate, 0);
  EXPECT_EQ(overlap.distinct, 2);
}

/// Experts of one neuron on two inputs, without gates: gelu of 10 is 10.
struct HandMadeExperts {
  MoeWeights weights;
  MoeOptions options;
  LocalDispatcher dispatcher;

  explicit HandMadeExperts(const std::vector<std::vector<double>>& down) {
    const auto experts = static_cast<int64_t>(down.size());
    weights.gate_up = at::tensor({1.0, 0.0}, at::kDouble).view({1, 1, 2}).repeat({experts, 1, 1});
    std::vector<at::Tensor> rows;
    for (const std::vector<double>& expert : down) rows.push_back(at::tensor(expert, at::kDouble));
    weights.down = at::stack(rows).unsqueeze(2).contiguous();
    options.num_experts = experts;
    options.is_gated = false;
  }
};

// An expert that gives nothing is dead, though it gets as many tokens as the others.
TEST(ActivationScaleTest, ADeadExpertHasNoShareOfTheOutputWhateverItsLoad) {
  const ModelConfig config = one_mixture(3, 1);
  const auto analysis = analyses().at("activation_scale").of_text({config, {"a"}});
  HandMadeExperts experts({{3, 4}, {0, 0}, {0, -5}});
  experts.options.output_scale = 2;
  const at::Tensor x_TD = at::tensor({10.0, 7.0}, at::kDouble).repeat({3, 1});
  Routing routing;
  routing.expert_ids_TK = at::tensor({0, 1, 2}, at::kLong).view({3, 1});
  routing.weights_TK = at::tensor({1.0, 1.0, 0.5}, at::kDouble).view({3, 1});
  const TextPieces pieces{{.row = 0, .domain = 0, .first = 0, .last = 3}};
  const at::Tensor stream = at::tensor({1.0, -2.0}, at::kDouble).repeat({3, 1});
  const at::Tensor y_TD = at::tensor({60.0, 80.0, 0.0, 0.0, 0.0, -50.0}, at::kDouble).view({3, 2});
  analysis->see_stream(0, LayerPoint::kAttended, stream, pieces);
  analysis->see_mixture({0, experts.weights, experts.options, x_TD, routing, y_TD, experts.dispatcher}, pieces);
  analysis->see_stream(0, LayerPoint::kOutput, stream + y_TD, pieces);
  analysis->see_stream(1, LayerPoint::kAttended, stream, pieces);
  analysis->see_stream(1, LayerPoint::kOutput, stream + stream, pieces);
  const json result = result_of(*analysis), all = result["layers"][0]["all"];
  ASSERT_EQ(all["experts"].size(), 3U);
  EXPECT_EQ(all["experts"][0]["l1"], 70);
  EXPECT_EQ(all["experts"][0]["l2"], 50);
  EXPECT_EQ(all["experts"][2]["l1"], 50);
  EXPECT_DOUBLE_EQ(all["experts"][1]["load_share"], 1.0 / 3);
  EXPECT_EQ(all["experts"][1]["output_share"], 0);
  // 1 x 2 x 50 against 0.5 x 2 x 50.
  EXPECT_DOUBLE_EQ(all["experts"][0]["output_share"], 2.0 / 3);
  EXPECT_DOUBLE_EQ(all["experts"][2]["output_share"], 1.0 / 3);
  EXPECT_FALSE(all.contains("shared_expert"));
  EXPECT_DOUBLE_EQ(all["output_l1"], 190.0 / 3);
  EXPECT_DOUBLE_EQ(all["output_l2"], 50);
  EXPECT_DOUBLE_EQ(all["stream_l1"], 3);
  EXPECT_DOUBLE_EQ(all["gap"], 9.0 / 190);
  EXPECT_EQ(result["layers"][1]["all"]["gap"], 1) << "a dense layer has a gap and no experts";
  EXPECT_FALSE(result["layers"][1]["all"].contains("experts"));
  const std::map<std::string, double> metrics = analyses().at("activation_scale").metrics(result);
  EXPECT_EQ(metrics.at("least_output_share_over_mean"), 0);
  EXPECT_EQ(metrics.at("greatest_residual_gap"), 1);
}

// Experts of one neuron, whose activation is gelu of the first input, beside a dense layer.
TEST(ActivationHistogramsTest, CountsNeuronsOfChosenExpertsAndOfDenseLayers) {
  const ModelConfig config = testing::with_dense_layer(testing::tiny_moe_config(3, 2, 1), 1);
  const auto analysis = analyses().at("activation_histograms").of_text({config, {"a", "b"}});
  HandMadeExperts experts({{3, 4}, {0, 0}, {0, -5}});
  const at::Tensor x_TD = at::tensor({10.0, 0.5, 0.0, -2.5, 0.0, 1.99}, at::kDouble).view({3, 2});
  Routing routing;
  routing.expert_ids_TK = at::tensor({0, 1, 1, 2, 2, 0}, at::kLong).view({3, 2});
  routing.weights_TK = at::full({3, 2}, 0.5, at::kDouble);
  const TextPieces pieces{{.row = 0, .domain = 0, .first = 0, .last = 2},
                          {.row = 0, .domain = 1, .first = 2, .last = 3}};
  analysis->see_stream(0, LayerPoint::kFfnInput, x_TD, pieces);
  analysis->see_mixture({0, experts.weights, experts.options, x_TD, routing, x_TD, experts.dispatcher}, pieces);
  analysis->see_stream(1, LayerPoint::kFfnActivations, at::tensor({0.25, -0.125}, at::kDouble).view({1, 2}), pieces);
  const json result = result_of(*analysis), mixture = result["layers"][0], dense = result["layers"][1];
  // Two of 10 and four of 0.
  EXPECT_EQ(mixture["neurons"]["plain"]["above"], 2);
  EXPECT_EQ(mixture["neurons"]["plain"]["counts"][500], 4);
  EXPECT_EQ(mixture["neurons"]["absolute"]["counts"][0], 4);
  EXPECT_EQ(mixture["neurons"]["squared"]["counts"].size(), 1000U);
  const json &of_a = mixture["inputs"]["domains"]["a"], &of_b = mixture["inputs"]["domains"]["b"];
  EXPECT_EQ(of_a["above"], 1);
  EXPECT_EQ(of_a["below"], 1);
  EXPECT_EQ(of_a["counts"][50], 1) << "0";
  EXPECT_EQ(of_a["counts"][62], 1) << "0.5";
  EXPECT_EQ(of_b["counts"][99], 1) << "1.99";
  EXPECT_EQ(dense["neurons"]["plain"]["counts"][750], 1);
  EXPECT_EQ(dense["neurons"]["plain"]["counts"][375], 1);
  EXPECT_EQ(dense["neurons"]["absolute"]["counts"][250], 1);
  EXPECT_EQ(dense["neurons"]["squared"]["counts"][625], 1);
  EXPECT_EQ(dense["neurons"]["squared"]["counts"][156], 1) << "1/64";
  EXPECT_DOUBLE_EQ(analyses().at("activation_histograms").metrics(result).at("near_zero_activations"), (4.0 / 6) / 2);
}

// Experts of one neuron and a shared one, whose gate reads the second input, beside a dense layer.
TEST(ActivationHistogramsTest, CountsWhatGatesLetThrough) {
  const ModelConfig config = testing::with_dense_layer(testing::tiny_moe_config(3, 2, 1, 1), 1);
  const auto analysis = analyses().at("activation_histograms").of_text({config, {"a"}});
  HandMadeExperts experts({{3, 4}, {0, 0}, {0, -5}});
  experts.options.is_gated = true;
  experts.weights.gate_up = at::tensor({0.0, 1.0, 1.0, 0.0}, at::kDouble).view({1, 2, 2}).repeat({3, 1, 1});
  experts.weights.shared = FeedForwardWeights{.gate = at::tensor({0.0, 1.0}, at::kDouble).view({1, 2}),
                                              .up = at::tensor({1.0, 0.0}, at::kDouble).view({1, 2}),
                                              .down = at::tensor({1.0, 0.0}, at::kDouble).view({2, 1})};
  const at::Tensor x_TD = at::tensor({10.0, 0.5, 0.0, -2.0, 3.0, 0.0, 0.0, 9.0}, at::kDouble).view({4, 2});
  Routing routing;
  routing.expert_ids_TK = at::tensor({0, 1, 1, 2, 2, 0, 0, 1}, at::kLong).view({4, 2});
  routing.weights_TK = at::full({4, 2}, 0.5, at::kDouble);
  const TextPieces pieces{{.row = 0, .domain = 0, .first = 0, .last = 4}};
  analysis->see_mixture({0, experts.weights, experts.options, x_TD, routing, x_TD, experts.dispatcher}, pieces);
  analysis->see_stream(1, LayerPoint::kFfnGates, at::tensor({0.5, -2.0}, at::kDouble).view({1, 2}), pieces);
  const json result = result_of(*analysis), mixture = result["layers"][0], dense = result["layers"][1];
  // Each token's two experts and the shared one: silu(0.5) = 0.3112, silu(-2) = -0.2384.
  EXPECT_EQ(mixture["gates"]["plain"]["counts"][811], 3);
  EXPECT_EQ(mixture["gates"]["plain"]["counts"][261], 3);
  EXPECT_EQ(mixture["gates"]["plain"]["counts"][500], 3);
  EXPECT_EQ(mixture["gates"]["plain"]["above"], 3);
  EXPECT_EQ(mixture["neurons"]["plain"]["above"], 3) << "10 silu(0.5)";
  EXPECT_EQ(mixture["neurons"]["plain"]["counts"][500], 9);
  EXPECT_EQ(dense["gates"]["plain"]["counts"][811], 1);
  EXPECT_EQ(dense["gates"]["absolute"]["counts"][476], 1);
  EXPECT_EQ(dense["gates"]["absolute"]["counts"][622], 1);
  EXPECT_EQ(dense["gates"]["squared"]["counts"][568], 1);
  EXPECT_EQ(dense["gates"]["squared"]["counts"][968], 1);
  EXPECT_EQ(dense["neurons"]["plain"]["counts"][500], 0);

  std::vector<std::string> names;
  for (const Figure& figure : analyses().at("activation_histograms").figures(result)) names.push_back(figure.name);
  EXPECT_THAT(names, ::testing::IsSupersetOf({"gates", "gates-absolute", "gates-squared"}));
}

TEST(ActivationHistogramsTest, FfnsWithoutGatesHaveNoneOfThem) {
  const ModelConfig config = testing::tiny_config("phi");
  const auto analysis = analyses().at("activation_histograms").of_text({config, {"a"}});
  const json result = result_of(*analysis);
  EXPECT_FALSE(result["layers"][0].contains("gates"));
  for (const Figure& figure : analyses().at("activation_histograms").figures(result))
    EXPECT_EQ(figure.name.find("gates"), std::string::npos) << figure.name;
}

// Balanced by distance is not balanced by product: the longer row takes the token of the other.
TEST(HiddenClustersTest, TheNearestRowNeedNotHaveTheLargestProduct) {
  const ModelConfig config = one_mixture(2, 1);
  const auto analysis = analyses().at("hidden_clusters").of_text({config, {"a"}});
  HandMadeExperts experts({{1, 1}, {1, 1}});
  experts.weights.router.weight_ED = at::tensor({1.0, 0.0, 0.0, 2.0}, at::kDouble).view({2, 2});
  const at::Tensor x_TD = at::tensor({1.0, 0.8, 1.0, 0.1, 0.0, 2.0}, at::kDouble).view({3, 2});
  Routing routing;
  routing.logits_TE = at::tensor({1.0, 1.6, 1.0, 0.2, 0.0, 4.0}, at::kDouble).view({3, 2});
  routing.expert_ids_TK = at::tensor({1, 0, 1}, at::kLong).view({3, 1});
  analysis->see_mixture({0, experts.weights, experts.options, x_TD, routing, x_TD, experts.dispatcher},
                        {{.row = 0, .domain = 0, .first = 0, .last = 3}});
  const json all = result_of(*analysis)["layers"][0]["all"];
  EXPECT_EQ(all["nearest_row"], json({2, 1}));
  EXPECT_EQ(all["largest_product"], json({1, 2}));
  EXPECT_EQ(all["load"], json({1, 2}));
  EXPECT_DOUBLE_EQ(all["agreement"], 2.0 / 3);
}

// Six tokens whose hidden states differ in one channel of 32, to two experts; a dense layer besides.
TEST(HiddenProjectionTest, DrawsTokensByDomainAndFirstExpert) {
  const ModelConfig config = one_mixture(2, 1);
  const auto analysis = analyses().at("hidden_projection").of_text({config, {"a", "b"}});
  HandMadeExperts experts({{1, 1}, {1, 1}});
  at::Tensor x_TD = at::zeros({6, 32}, at::kDouble);
  for (int64_t t = 0; t < 6; ++t) x_TD[t][3] = static_cast<double>(t);
  Routing routing;
  routing.expert_ids_TK = at::tensor({0, 0, 0, 1, 1, 1}, at::kLong).view({6, 1});
  const TextPieces pieces{{.row = 0, .domain = 0, .first = 0, .last = 4},
                          {.row = 0, .domain = 1, .first = 4, .last = 6}};
  analysis->see_stream(0, LayerPoint::kFfnInput, x_TD, pieces);
  analysis->see_mixture({0, experts.weights, experts.options, x_TD, routing, x_TD, experts.dispatcher}, pieces);
  analysis->see_stream(1, LayerPoint::kFfnInput, x_TD, pieces);
  const json result = result_of(*analysis);
  ASSERT_EQ(result["layers"].size(), 2U);
  const json& mixture = result["layers"][0];
  EXPECT_EQ(mixture["domain"], json({"a", "a", "a", "a", "b", "b"}));
  EXPECT_EQ(mixture["first_expert"], json({0, 0, 0, 1, 1, 1}));
  for (size_t t = 0; t < 6; ++t) EXPECT_NEAR(mixture["x"][t], static_cast<double>(t) - 2.5, 1e-9);
  EXPECT_NEAR(mixture["variance_shares"][0], 1, 1e-12);
  EXPECT_FALSE(result["layers"][1].contains("first_expert"));
  const std::vector<Figure> figures = analyses().at("hidden_projection").figures(result);
  ASSERT_EQ(figures.size(), 3U);
  EXPECT_THAT(figures[0].rows, ElementsAre("a", "b"));
  EXPECT_EQ(figures[0].x[1].size(), 2U);
  EXPECT_THAT(figures[1].rows, ElementsAre("expert 0", "expert 1"));
  EXPECT_EQ(figures[1].values[0].size(), 3U);
}

TEST(AnalysesTest, EachSaysWhatItIsAndIsOfAModelOrOfText) {
  for (const std::string& name : analyses().names()) {
    const Analysis& analysis = analyses().at(name);
    EXPECT_FALSE(analysis.title.empty() || analysis.summary.empty()) << name;
    EXPECT_NE(analysis.of_model == nullptr, analysis.of_text == nullptr) << name;
    EXPECT_EQ(analysis.model_units == nullptr, analysis.of_model == nullptr) << name;
    std::set<bool> needs_data;
    for (const Measure& measure : result_measures("analyze")) {
      if (measure.task == name) needs_data.insert(measure.needs == "data");
    }
    EXPECT_THAT(needs_data, ElementsAre(analysis.needs_text())) << name << ": its rows of common/measures.cc";
  }
  EXPECT_THAT(text_analyses(), ElementsAre("routing", "routing_similarity", "activation_scale", "activation_histograms",
                                           "hidden_clusters", "hidden_projection"));
}

}  // namespace
}  // namespace moe
