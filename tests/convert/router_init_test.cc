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
#include "convert/router_init_fixture.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"

namespace moe {
namespace {

using testing::features;
using testing::give_experts;
using testing::kExperts;
using testing::kHidden;
using testing::kTokens;
using testing::logit_deviation;
using testing::make_router;
using testing::make_weights;
using testing::options_of;

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
