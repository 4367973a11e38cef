#include "convert/router_init.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

constexpr int64_t kTokens = 600, kHidden = 48, kExperts = 7;

/// MLP inputs as real ones are: a strong common direction, and tokens of very different length. [tokens, hidden]
at::Tensor features() {
  at::Tensor x = at::empty({kTokens, kHidden}, at::kFloat);
  CounterRng rng(3, kStreamTest);
  for (int64_t t = 0; t < kTokens; ++t) {
    const double length = std::exp(rng.normal());
    for (int64_t d = 0; d < kHidden; ++d) x[t][d] = (d % 5 == 0 ? 3.0 : 0.0) + length * rng.normal();
  }
  return x;
}

/// The init's own, at their defaults but for `given`.
MethodOptions options_of(const std::string& init, const std::map<std::string, std::string>& given = {},
                         const std::string& scaling = "calibrated") {
  v1::RouterSpec router;
  router.set_init(init);
  router.set_scaling(scaling);
  for (const auto& [name, value] : given) (*router.mutable_options())[name] = value;
  return router_init_options(router, "ours");
}

/// Experts that are cut from an FFN of 70 neurons, ten after the other; the FFN itself in `dense`.
void give_experts(RouterRequest& request, FeedForwardWeights& dense) {
  CounterRng rng(4, kStreamTest);
  const auto matrix = [&rng](int64_t rows, int64_t columns) {
    at::Tensor values = at::empty({rows, columns}, at::kFloat);
    for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
    return values;
  };
  dense = {matrix(70, kHidden), matrix(70, kHidden), matrix(kHidden, 70)};
  request.dense = &dense;
  request.top_k = 2;
  for (int32_t e = 0; e < kExperts; ++e) {
    request.neurons.emplace_back(10);
    std::iota(request.neurons.back().begin(), request.neurons.back().end(), 10 * e);
  }
}

/// The router that `init` makes of the features, spread unevenly over `ranks` ranks.
RouterWeights make_weights(const std::string& init, const std::string& scaling, int ranks, RouterGate gate,
                           int64_t layer = 0, uint64_t seed = 21, const MethodOptions& options = {}) {
  const at::Tensor all = features();
  RouterWeights result;
  testing::run_ranks(ranks, [&](Communicator& world) {
    const int64_t first = kTokens * world.rank() * world.rank() / (ranks * ranks),
                  last = kTokens * (world.rank() + 1) * (world.rank() + 1) / (ranks * ranks);
    const CalibrationFeatures mine{all.slice(0, first, last), first, kTokens};
    RouterRequest request{.experts = kExperts,
                          .hidden_size = kHidden,
                          .layer = layer,
                          .seed = seed,
                          .scaling = scaling,
                          .features = &mine,
                          .gate = gate,
                          .options = options.values().empty() ? options_of(init) : options};
    FeedForwardWeights dense;
    give_experts(request, dense);
    const InitialRouter router = router_inits().at(init).make(request, world);
    if (world.rank() == ranks - 1) result = router.weights;
  });
  return result;
}

at::Tensor make_router(const std::string& init, const std::string& scaling, int ranks, int64_t layer = 0,
                       uint64_t seed = 21) {
  return make_weights(init, scaling, ranks, RouterGate::kLinear, layer, seed).weight_ED;
}

/// In double, by the definition.
double logit_deviation(const at::Tensor& router) {
  const at::Tensor logits = at::matmul(features().to(at::kDouble), router.to(at::kDouble).t());
  return logits.std(/*unbiased=*/false).item<double>();
}

class EveryRouterInitTest : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryRouterInitTest, SameOnEveryNumberOfRanksAndEveryTime) {
  const at::Tensor one = make_router(GetParam(), "calibrated", 1);
  EXPECT_EQ(one.sizes(), at::IntArrayRef({kExperts, kHidden}));
  EXPECT_EQ(one.scalar_type(), at::kFloat);
  for (const int ranks : {1, 2, 3, 4})
    EXPECT_TRUE(at::equal(make_router(GetParam(), "calibrated", ranks), one)) << ranks << " ranks: to the last bit";
}

TEST_P(EveryRouterInitTest, HasASummary) {
  EXPECT_FALSE(router_inits().at(GetParam()).summary.empty());
}

INSTANTIATE_TEST_SUITE_P(Inits, EveryRouterInitTest, ::testing::ValuesIn(router_inits().names()),
                         [](const auto& each) { return each.param; });

TEST(RandomSelectionTest, RawRowsAreDistinctTokens) {
  const at::Tensor router = make_router("random_selection", "raw", 2), all = features();
  std::vector<int64_t> chosen;
  for (int64_t e = 0; e < kExperts; ++e) {
    const at::Tensor match = (all == router[e]).all(1).nonzero().flatten();
    ASSERT_EQ(match.numel(), 1) << "row " << e << " is not one token's features";
    EXPECT_THAT(chosen, ::testing::Not(::testing::Contains(match.item<int64_t>())));
    chosen.push_back(match.item<int64_t>());
  }
}

TEST(RandomSelectionTest, CalibratedLogitsHaveDeviationOne) {
  for (const int64_t layer : {0, 1, 2})
    EXPECT_NEAR(logit_deviation(make_router("random_selection", "calibrated", 2, layer)), 1, 1e-3);
}

TEST(HiddenClusteringTest, CalibratedRowsAreCentredCentroidsOfOneLength) {
  const at::Tensor raw = make_router("hidden_clustering", "raw", 1).to(at::kDouble),
                   calibrated = make_router("hidden_clustering", "calibrated", 2).to(at::kDouble);
  at::Tensor expected = raw - features().to(at::kDouble).mean(0);
  expected = expected / expected.norm(2, {1}, true);
  EXPECT_TRUE(testing::near(calibrated / calibrated.norm(2, {1}, true), expected, 1e-5));
  EXPECT_NEAR(logit_deviation(calibrated), 1, 1e-3);
}

TEST(RandomSelectionTest, CalibratedRowsAreCentredTokensOfOneLength) {
  const at::Tensor raw = make_router("random_selection", "raw", 1).to(at::kDouble),
                   calibrated = make_router("random_selection", "calibrated", 1).to(at::kDouble);
  at::Tensor expected = raw - features().to(at::kDouble).mean(0);
  expected = expected / expected.norm(2, {1}, true);
  const at::Tensor lengths = calibrated.norm(2, {1}, true);
  EXPECT_LT((lengths.max() / lengths.min()).item<double>(), 1 + 1e-5);
  EXPECT_TRUE(testing::near(calibrated / lengths, expected, 1e-5));
}

TEST(RandomSelectionTest, LayersAndSeedsChooseOtherTokens) {
  const at::Tensor base = make_router("random_selection", "raw", 1);
  EXPECT_FALSE(at::equal(base, make_router("random_selection", "raw", 1, /*layer=*/1)));
  EXPECT_FALSE(at::equal(base, make_router("random_selection", "raw", 1, 0, /*seed=*/22)));
}

TEST(RandomSelectionTest, TooFewTokensSaysHowMany) {
  const CalibrationFeatures few{features().slice(0, 0, 5), 0, 5};
  try {
    router_inits()
        .at("random_selection")
        .make({.experts = kExperts, .hidden_size = kHidden, .features = &few}, *make_self_communicator());
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("5"), ::testing::HasSubstr("experts 7"),
                                               ::testing::HasSubstr("calibration.tokens")));
  }
}

/// Half of the tokens are one and the same: no two experts get it, whichever ranks its copies are on.
TEST(RandomSelectionTest, NoTwoExpertsGetTheSameRow) {
  at::Tensor x = features();
  x.slice(0, 0, kTokens, 2) = x[0];
  testing::run_ranks(2, [&](Communicator& world) {
    const CalibrationFeatures mine{x.slice(0, world.rank() * 300, world.rank() * 300 + 300), world.rank() * 300,
                                   kTokens};
    for (int64_t layer = 0; layer < 20; ++layer) {
      const at::Tensor router =
          router_inits()
              .at("random_selection")
              .make({.experts = kExperts, .hidden_size = kHidden, .layer = layer, .scaling = "raw", .features = &mine},
                    world)
              .weights.weight_ED;
      EXPECT_EQ(std::get<0>(at::unique_dim(router, 0)).size(0), kExperts) << "layer " << layer;
    }
  });
}

TEST(RandomSelectionTest, TextWithTooFewDifferentTokensIsRefused) {
  const CalibrationFeatures same{at::ones({100, kHidden}), 0, 100};
  EXPECT_THROW(router_inits()
                   .at("random_selection")
                   .make({.experts = kExperts, .hidden_size = kHidden, .features = &same}, *make_self_communicator()),
               InvalidArgument);
}

TEST(KaimingTest, UniformWithinTheBound) {
  const auto communicator = make_self_communicator();
  const at::Tensor router = router_inits()
                                .at("kaiming")
                                .make({.experts = 64, .hidden_size = 1024, .seed = 1}, *communicator)
                                .weights.weight_ED.to(at::kDouble);
  const double bound = 1 / std::sqrt(1024.0);
  EXPECT_LE(testing::max_abs(router), bound);
  EXPECT_NEAR(router.mean().item<double>() / bound, 0, 0.01);
  EXPECT_NEAR(router.var().item<double>() / (bound * bound / 3), 1, 0.02);
}

TEST(NormalTest, EveryMatrixHasTheDeviation) {
  const auto communicator = make_self_communicator();
  for (const auto& [given, deviation] :
       {std::pair<std::map<std::string, std::string>, double>{{}, 0.02}, {{{"deviation", "0.5"}}, 0.5}}) {
    const RouterWeights router = router_inits()
                                     .at("normal")
                                     .make({.experts = 64,
                                            .hidden_size = 1024,
                                            .seed = 1,
                                            .gate = RouterGate::kMlp,
                                            .options = options_of("normal", given)},
                                           *communicator)
                                     .weights;
    EXPECT_EQ(router.out_weight_EE.sizes(), at::IntArrayRef({64, 64}));
    for (const at::Tensor& matrix : {router.weight_ED, router.out_weight_EE}) {
      EXPECT_NEAR(matrix.mean().item<double>() / deviation, 0, 0.05);
      EXPECT_NEAR(matrix.std().item<double>() / deviation, 1, 0.05);
    }
  }
}

/// Whatever the gate, rows order experts as they do in a linear router.
TEST(RouterOfRowsTest, EveryGateOrdersExpertsAsTheRowsDo) {
  const at::Tensor rows = make_router("random_selection", "calibrated", 1), x = features().narrow(0, 0, 50);
  const at::Tensor linear = at::matmul(x, rows.t());
  const RouterWeights mlp = router_of_rows(rows, RouterGate::kMlp),
                      product = router_of_rows(rows, RouterGate::kProduct);
  EXPECT_TRUE(testing::near(router_logits(x, mlp, RouterGate::kMlp), at::tanh(linear), 1e-5));
  const at::Tensor unit = at::matmul(x, (rows / rows.norm(2, {1}, true)).t());
  EXPECT_TRUE(
      testing::near(router_logits(x, product, RouterGate::kProduct), (unit * unit / (1 + (-unit).exp())).abs(), 1e-4));
}

TEST(RouterOfRowsTest, ExpertsOfAGroupHaveEqualLogits) {
  const at::Tensor x = features().narrow(0, 0, 50);
  for (const RouterGate gate : {RouterGate::kLinear, RouterGate::kMlp, RouterGate::kProduct}) {
    const RouterWeights one = make_weights("normal", "raw", 1, gate), groups = in_groups_of(one, 3);
    EXPECT_TRUE(
        testing::near(router_logits(x, groups, gate), router_logits(x, one, gate).repeat_interleave(3, 1), 1e-6));
  }
}

/// A token wants the experts whose neurons give most; what a router learns of that is more than random rows know.
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
  ASSERT_TRUE(made.recall.has_value());
  EXPECT_GT(*made.recall, 2.0 / kExperts) << "chance";
  EXPECT_LE(*made.recall, 1);
  EXPECT_NEAR(logit_deviation(made.weights.weight_ED), 1, 1e-3) << "calibrated";
}

TEST(HiddenClusteringTest, OptionsChangeTheClusters) {
  const auto rows = [](const std::map<std::string, std::string>& given) {
    return make_weights("hidden_clustering", "raw", 1, RouterGate::kLinear, 0, 21,
                        options_of("hidden_clustering", given))
        .weight_ED;
  };
  const at::Tensor ours = rows({});
  EXPECT_TRUE(at::equal(rows({{"metric", "l2sq"}, {"jitter", "0"}, {"restarts", "3"}}), ours));
  EXPECT_FALSE(at::equal(rows({{"metric", "l2"}}), ours));
  EXPECT_FALSE(at::equal(rows({{"metric", "cos"}}), ours));
  EXPECT_FALSE(at::equal(rows({{"jitter", "0.5"}}), ours));
}

/// What is kept of groups of tokens is of their clustering.
TEST(HiddenClusteringTest, SettingsThatAreNotDefaultsNameTheClustering) {
  v1::ConvertSpec spec;
  spec.mutable_router()->set_init("hidden_clustering");
  EXPECT_EQ(clustering_name(spec), "");
  (*spec.mutable_router()->mutable_options())["jitter"] = "0.5";
  (*spec.mutable_router()->mutable_options())["metric"] = "cos";
  EXPECT_EQ(clustering_name(spec), " metric=cos jitter=0.5");
  EXPECT_EQ(token_clustering(spec).jitter, 0.5);
  (*spec.mutable_router()->mutable_options())["target_probability"] = "0.5";
  EXPECT_EQ(clustering_name(spec), " metric=cos jitter=0.5") << "what becomes of centroids is the router's";
  spec.mutable_router()->clear_options();
  spec.mutable_router()->set_init("zero");
  (*spec.mutable_router()->mutable_options())["jitter"] = "0.5";
  EXPECT_EQ(clustering_name(spec), "") << "they are another init's";
}

at::Tensor rows_with(const std::string& init, const std::string& scaling,
                     const std::map<std::string, std::string>& given, int ranks = 1) {
  return make_weights(init, scaling, ranks, RouterGate::kLinear, 0, 21, options_of(init, given, scaling)).weight_ED;
}

at::Tensor unit(const at::Tensor& rows) {
  return rows.to(at::kDouble) / rows.to(at::kDouble).norm(2, {1}, true);
}

TEST(PcaTest, RawRowsAreTheFirstSingularVectorsOfTheCentredInputs) {
  const at::Tensor x = features().to(at::kDouble), router = make_router("pca", "raw", 2);
  at::Tensor expected = std::get<2>(at::linalg_svd(x - x.mean(0), /*full_matrices=*/false)).slice(0, 0, kExperts);
  expected = expected * (expected * router.to(at::kDouble)).sum(1, true).sign();
  EXPECT_TRUE(testing::near(router, expected, 1e-6));
  for (const at::Tensor& row : router.unbind(0))
    EXPECT_EQ(row.max().item<float>(), testing::max_abs(row)) << "the largest component is positive";
}

TEST(PcaTest, CalibratedLogitsAreAboutZeroAndDeviateByOne) {
  const at::Tensor router = make_router("pca", "calibrated", 2);
  EXPECT_NEAR(logit_deviation(router), 1, 1e-3);
  EXPECT_LT(testing::max_abs(at::matmul(features().to(at::kDouble), router.to(at::kDouble).t()).mean(0)), 1e-5);
  EXPECT_TRUE(testing::near(at::matmul(unit(router), unit(router).t()), at::eye(kExperts, at::kDouble), 1e-6));
  const at::Tensor lengths = router.norm(2, {1});
  EXPECT_LT((lengths.max() / lengths.min()).item<double>(), 1 + 1e-5);
}

TEST(PcaTest, MoreExpertsThanDirectionsAreRefused) {
  at::Tensor few = features();
  few.slice(1, 5).zero_();
  for (const auto& [scaling, directions] :
       {std::pair("raw", "vary in 5 for"), std::pair("calibrated", "vary in 4 for")}) {
    const CalibrationFeatures mine{few, 0, kTokens};
    try {
      router_inits().at("pca").make({.experts = kExperts,
                                     .hidden_size = kHidden,
                                     .scaling = scaling,
                                     .features = &mine,
                                     .section = "attention.",
                                     .options = options_of("pca")},
                                    *make_self_communicator());
      ADD_FAILURE() << "not refused";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("convert: attention.router.init pca"),
                                                 ::testing::HasSubstr(directions), ::testing::HasSubstr("experts 7")));
    }
  }
  EXPECT_EQ(router_inits().at("pca").text_problem(4, 5), "");
  EXPECT_THAT(router_inits().at("pca").text_problem(4, 4), ::testing::HasSubstr("4 tokens vary in 3 for experts 4"));
}

TEST(RouterRowsTest, RowLengthIsThatOfEveryRow) {
  for (const char* init : {"hidden_clustering", "pca"}) {
    const at::Tensor rows = rows_with(init, "raw", {{"row_length", "2.5"}});
    EXPECT_TRUE(testing::near(rows.norm(2, {1}), at::full({kExperts}, 2.5), 1e-5)) << init;
    EXPECT_TRUE(testing::near(unit(rows), unit(rows_with(init, "raw", {})), 1e-5)) << init;
  }
}

/// One factor of all rows does it: no choice is another.
TEST(RouterRowsTest, TargetProbabilityIsReachedOnTheCalibrationTokens) {
  for (const char* init : {"hidden_clustering", "pca"}) {
    for (const char* scaling : {"raw", "calibrated"}) {
      const at::Tensor without = rows_with(init, scaling, {});
      for (const char* target : {"0.3", "0.8"}) {
        const at::Tensor rows = rows_with(init, scaling, {{"target_probability", target}});
        const at::Tensor p_TE = at::softmax(at::matmul(features().to(at::kDouble), rows.to(at::kDouble).t()), 1);
        EXPECT_NEAR(std::get<0>(p_TE.max(1)).mean().item<double>(), std::stod(target), 1e-5) << init << " " << scaling;
        EXPECT_TRUE(testing::near(rows / rows.norm(), without / without.norm(), 1e-5)) << init << " " << scaling;
        EXPECT_TRUE(at::equal(rows_with(init, scaling, {{"target_probability", target}}, 3), rows))
            << init << " " << scaling << ": to the last bit";
      }
    }
  }
}

TEST(RouterRowsTest, ATargetThatNoFactorReachesIsRefused) {
  const CalibrationFeatures mine{features(), 0, kTokens};
  try {
    router_inits().at("pca").make({.experts = kExperts,
                                   .hidden_size = kHidden,
                                   .features = &mine,
                                   .options = options_of("pca", {{"target_probability", "0.14"}})},
                                  *make_self_communicator());
    ADD_FAILURE() << "not refused";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("router.options.target_probability is 0.14, and on these tokens the "
                                                   "likeliest of experts 7"));
  }
}

/// What a router with the settings is refused for; empty if it is not.
std::string refusal_of(const std::map<std::string, std::string>& given, const std::string& scaling,
                       const std::string& gate, const std::string& score, const std::string& section = "") {
  v1::RouterSpec router;
  router.set_init("hidden_clustering");
  router.set_scaling(scaling);
  router.set_gate(gate);
  router.set_score(score);
  for (const auto& [name, value] : given) (*router.mutable_options())[name] = value;
  try {
    router_init_options(router, "ours", section);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(RouterInitOptionsTest, ThoseOfRowsAreRefusedWhereTheyHaveNoEffect) {
  using ::testing::HasSubstr;
  const std::map<std::string, std::string> length{{"row_length", "1"}}, target{{"target_probability", "0.5"}},
      both{{"row_length", "1"}, {"target_probability", "0.5"}},
      neither{{"row_length", "0"}, {"target_probability", "0"}};
  EXPECT_THAT(refusal_of(length, "calibrated", "linear", "softmax"),
              HasSubstr("convert: router.options.row_length (1) has no effect with router.scaling 'calibrated', which "
                        "decides the length of rows; set router.scaling: raw or remove it"));
  EXPECT_THAT(refusal_of(length, "calibrated", "linear", "softmax", "attention."),
              HasSubstr("attention.router.options.row_length (1) has no effect with attention.router.scaling"));
  EXPECT_THAT(refusal_of(length, "raw", "product", "softmax"), HasSubstr("no effect with router.gate 'product'"));
  EXPECT_THAT(refusal_of(both, "raw", "linear", "softmax"),
              HasSubstr("row_length (1) has no effect with router.options.target_probability"));
  EXPECT_THAT(refusal_of(target, "calibrated", "mlp", "softmax"),
              HasSubstr("target_probability (0.5) has no effect with router.gate 'mlp'"));
  EXPECT_THAT(refusal_of(target, "raw", "linear", "sigmoid"), HasSubstr("no effect with router.score 'sigmoid'"));
  EXPECT_EQ(refusal_of(length, "raw", "mlp", "sigmoid"), "");
  for (const char* scaling : {"raw", "calibrated"}) EXPECT_EQ(refusal_of(target, scaling, "linear", "softmax"), "");
  EXPECT_EQ(refusal_of(neither, "calibrated", "product", "sigmoid"), "");
}

TEST(RouterInitOptionsTest, UnknownOnesAndBadValuesAreRefused) {
  const auto refusal = [](const std::string& init, const std::map<std::string, std::string>& given) {
    try {
      options_of(init, given);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(refusal("zero", {{"deviation", "1"}}),
              ::testing::HasSubstr("router.options.deviation (1) is no option of router.init zero; it has none"));
  EXPECT_THAT(refusal("hidden_clustering", {{"metric", "l1"}}),
              ::testing::HasSubstr("router.options.metric is 'l1'; use l2sq, l2 or cos"));
  EXPECT_THAT(refusal("random_selection", {{"row_length", "1"}}),
              ::testing::HasSubstr("router.options.row_length (1) is no option of router.init random_selection"));
  EXPECT_THAT(refusal("pca", {{"target_probability", "1"}}), ::testing::HasSubstr("use 0 .. 0.999"));
  EXPECT_THAT(refusal("distilled", {{"epochs", "0"}}), ::testing::HasSubstr("a whole number 1 .. 10000"));
}

TEST(RouterInitOptionsTest, ThoseOfAttentionAreRefusedWhereTheyStand) {
  v1::RouterSpec router;
  router.set_init("zero");
  (*router.mutable_options())["deviation"] = "1";
  try {
    router_init_options(router, "ours", "attention.");
    ADD_FAILURE() << "not refused";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("attention.router.options.deviation (1) is no option of attention.router.init "
                                     "zero; it has none"));
  }
}

TEST(ZeroTest, IsZero) {
  EXPECT_EQ(testing::max_abs(make_router("zero", "calibrated", 1)), 0);
}

TEST(RouterLogitDeviationTest, CountsEveryRanksTokens) {
  const at::Tensor all = features(), router = make_router("kaiming", "calibrated", 1);
  testing::run_ranks(3, [&](Communicator& world) {
    const int64_t first = world.rank() * 200;
    const CalibrationFeatures mine{all.slice(0, first, first + 200), first, kTokens};
    EXPECT_NEAR(router_logit_deviation({router}, RouterGate::kLinear, mine, world), logit_deviation(router),
                1e-5 * logit_deviation(router));
  });
}

}  // namespace
}  // namespace moe
