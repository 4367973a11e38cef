// What every conversion method must hold, over every name of the registry: docs/adding.md promises these to a new
// method.

#include "convert/conversion_methods.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "common/rng.h"
#include "convert/conversion_fixture.h"
#include "convert/planned_by.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

struct Size {
  int64_t width, experts;
};

/// FFN widths and expert counts of the models that the papers convert, and one that no power of two divides.
constexpr Size kSizes[] = {{11008, 8}, {11008, 16}, {13824, 16}, {14336, 8}, {14336, 16},
                           {8640, 8},  {8640, 16},  {172, 4},    {768, 1},   {7, 7}};

/// Those at which LLaMA-MoE v1's specification asks for partitions (T1).
constexpr Size kPapers[] = {{11008, 8}, {11008, 16}, {13824, 16}, {14336, 8}, {14336, 16}, {8640, 8}};

ModelConfig config_of(int64_t width) {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 4;
  config.intermediate_size = width;
  config.num_layers = 32;
  return config;
}

v1::ConvertSpec spec_of(const std::string& method, const Size& size) {
  v1::ConvertSpec spec;
  *spec.mutable_ffn() = testing::sizes_of(method, size.width, static_cast<int>(size.experts), 1).value();
  return spec;
}

/// The plan of a method that needs nothing.
LayerPlan plan(const std::string& method, const Size& size, int64_t layer, uint64_t seed) {
  const ModelConfig config = config_of(size.width);
  const v1::ConvertSpec spec = spec_of(method, size);
  const ConversionMethod& row = conversion_methods().at(method);
  const MethodOptions options(row.options, spec);
  return row.plan({.config = config, .spec = spec, .layer = layer, .seed = seed, .options = options},
                  *make_self_communicator());
}

/// The neurons of each expert of a plan that copies neurons.
std::vector<std::vector<int32_t>> neurons_of(const LayerPlan& plan) {
  EXPECT_TRUE(is_copy_of_neurons(plan));
  std::vector<std::vector<int32_t>> all;
  for (const ExpertPlan& expert : plan.experts) {
    std::vector<int32_t>& neurons = all.emplace_back();
    for (const NeuronRun& run : expert.runs) neurons.insert(neurons.end(), run.neurons->begin(), run.neurons->end());
  }
  return all;
}

class EveryMethodTest : public ::testing::TestWithParam<std::string> {
 protected:
  static const ConversionMethod& method() { return conversion_methods().at(GetParam()); }
  /// Those that need more are run through whole conversions (converter_test.cc).
  static bool needs_nothing() { return !method().needs.weights && !method().needs.text(); }
};

/// The plan is one that the converter takes: every neuron once where the method says so, shared part included, and of
/// the widths that it said.
TEST_P(EveryMethodTest, PlansAreWhatTheMethodSays) {
  if (!needs_nothing()) GTEST_SKIP() << GetParam() << " looks at weights or text";
  for (const Size& size : kSizes) {
    const v1::ConvertSpec spec = spec_of(GetParam(), size);
    for (const int64_t layer : {0, 31}) {
      const LayerPlan made = plan(GetParam(), size, layer, /*seed=*/5);
      EXPECT_NO_THROW(check_plan(made, {.layer = layer,
                                        .experts = spec.ffn().experts(),
                                        .neurons = size.width,
                                        .hidden_size = 4,
                                        .models = 1 + spec.ffn().others_size(),
                                        .has_router = method().has_router,
                                        .is_partition = makes_partition(method(), spec.ffn())}))
          << size.width << " / " << size.experts;
      if (!method().widths) continue;
      EXPECT_EQ(made.widths(), method().widths(config_of(size.width), spec)) << size.width << " / " << size.experts;
    }
  }
}

/// Methods that look at importance or activations, at the papers' sizes, on made-up numbers: the parts are a partition
/// of the widths that they said.
TEST_P(EveryMethodTest, PlansOfMadeUpNumbersAreWhatTheMethodSays) {
  const MethodNeeds needs = method().needs;
  if (needs.weights || needs.hidden_states || !needs.text()) GTEST_SKIP() << GetParam() << " looks at other things";
  for (const Size& size : kPapers) {
    v1::ConvertSpec spec = spec_of(GetParam(), size);
    if (GetParam() == "sharing_inter") testing::set_option(spec, "routed", "disjoint");
    const ModelConfig config = config_of(size.width);
    const MethodOptions options(method().options, spec);
    const int64_t groups = spec.ffn().experts() + (GetParam() == "sharing_inter" ? spec.ffn().shared_experts() : 0);
    const Importance importance{.scores_GF = testing::random_normal({groups, size.width}, 3).square(),
                                .tokens_G = at::arange(1, groups + 1, at::kLong)};
    LayerFeatures features;
    constexpr int64_t kTokens = 64;
    if (needs.activations) features.activations_TF = testing::random_normal({kTokens, size.width}, 4, at::kFloat);
    features.ffn_inputs = {at::zeros({kTokens, config.hidden_size}), 0, kTokens};
    const auto begun = std::chrono::steady_clock::now();
    const LayerPlan made = method().plan({.config = config,
                                          .spec = spec,
                                          .layer = 2,
                                          .seed = 5,
                                          .features = &features,
                                          .importance = &importance,
                                          .options = options},
                                         *make_self_communicator());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
    RecordProperty(concat("milliseconds_", size.width, "_", size.experts), concat(took.count()));
    const std::string what = concat(size.width, " / ", size.experts);
    EXPECT_NO_THROW(check_plan(made, {.layer = 2,
                                      .experts = spec.ffn().experts(),
                                      .neurons = size.width,
                                      .hidden_size = 4,
                                      .is_partition = makes_partition(method(), spec.ffn())}))
        << what;
    EXPECT_EQ(made.widths(), method().widths(config, spec)) << what;
  }
}

/// An FFN 8 wide whose neurons, and eight documents of what it reads, are of as many subjects as there are experts: of
/// about as many neurons each, so that clusters of equal sizes lie near and take from each other.
testing::PlannedAlone of_subjects(const Size& size) {
  constexpr int64_t kHidden = 8, kDocuments = 8, kTokens = 12;
  const at::Tensor subjects = testing::random_normal({size.experts, kHidden}, 1) * 3;
  CounterRng rng(2, kStreamTest);
  std::vector<int64_t> subject_of(size.width);
  for (int64_t& subject : subject_of) subject = static_cast<int64_t>(rng.below(static_cast<uint64_t>(size.experts)));
  const at::Tensor centres = subjects.index_select(0, at::tensor(subject_of, at::kLong));
  const auto rows = [&](double apart, uint64_t seed) {
    return (centres + apart * testing::random_normal({size.width, kHidden}, seed)).to(at::kFloat);
  };
  std::vector<int64_t> cu_seqlens{0};
  at::Tensor x = testing::random_normal({kDocuments * kTokens, kHidden}, 3);
  for (int64_t document = 0; document < kDocuments; ++document) {
    x.narrow(0, cu_seqlens.back(), kTokens) += subjects[document];
    cu_seqlens.push_back(cu_seqlens.back() + kTokens);
  }
  return {{rows(0.01, 4), rows(0.3, 5), at::ones({kHidden, size.width})}, x.to(at::kFloat), cu_seqlens};
}

/// Methods that look at weights, and at what the FFN reads, at the papers' sizes: with a part that is shared, too,
/// where they can have one.
TEST_P(EveryMethodTest, PlansOfMadeUpWeightsAreWhatTheMethodSays) {
  const MethodNeeds needs = method().needs;
  if (!needs.weights || needs.gradients || needs.activations) GTEST_SKIP() << GetParam() << " looks at other things";
  for (const Size& size : kPapers) {
    testing::PlannedAlone layer = of_subjects(size);
    for (const int shared : {0, 1}) {
      if (shared > 0 && (!method().has_shared || &size != kPapers)) continue;
      layer.spec = spec_of(GetParam(), size);
      layer.spec.mutable_ffn()->set_experts(static_cast<int>(size.experts) - shared);
      layer.spec.mutable_ffn()->set_shared_experts(shared);
      const auto begun = std::chrono::steady_clock::now();
      const LayerPlan made = layer.plan();
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
      RecordProperty(concat("milliseconds_", size.width, "_", size.experts, "_", shared), concat(took.count()));
      const std::string what = concat(size.width, " / ", size.experts, ", shared ", shared);
      EXPECT_NO_THROW(check_plan(made, {.layer = 0,
                                        .experts = layer.spec.ffn().experts(),
                                        .neurons = size.width,
                                        .hidden_size = layer.config.hidden_size,
                                        .has_router = method().has_router,
                                        .is_partition = makes_partition(method(), layer.spec.ffn())}))
          << what;
      EXPECT_EQ(made.widths(), method().widths(layer.config, layer.spec)) << what;
      EXPECT_EQ(made.widths().experts.back(), size.width / size.experts) << what;
    }
  }
}

/// Those of the test above.
TEST(ConversionMethodsTest, PartitionsByWeights) {
  for (const char* name : {"independent_clustering", "weave", "analytic"}) {
    EXPECT_TRUE(conversion_methods().at(name).is_partition) << name;
    EXPECT_TRUE(conversion_methods().at(name).needs.weights) << name;
  }
}

/// Those by importance that are partitions.
TEST(ConversionMethodsTest, PartitionsByImportance) {
  for (const char* name : {"independent_gradient", "importance", "residual", "coactivation"})
    EXPECT_TRUE(conversion_methods().at(name).is_partition) << name;
  for (const char* name : {"sharing_inner", "sharing_inter", "pruned_gradient"})
    EXPECT_FALSE(conversion_methods().at(name).is_partition) << name;
}

TEST_P(EveryMethodTest, SameInputsSamePlan) {
  if (!needs_nothing()) GTEST_SKIP() << GetParam() << " looks at weights or text";
  if (!testing::writes_neurons(GetParam())) GTEST_SKIP() << GetParam() << " takes more than neurons of the model";
  EXPECT_EQ(neurons_of(plan(GetParam(), {8640, 16}, 3, 77)), neurons_of(plan(GetParam(), {8640, 16}, 3, 77)));
}

/// Of 48 neurons, eight parts of six. Who needs a shared part, a width or one expert alone gets it, and nobody else.
TEST(ConversionMethodsTest, SizesThatTestsGive) {
  const auto sizes = [](const std::string& method) {
    const v1::FfnExpertsSpec ffn = testing::sizes_of(method, 48, 8, 2).value();
    return concat(ffn.experts(), " + ", ffn.shared_experts(), ", top ", ffn.top_k(), ", ", ffn.expert_width());
  };
  EXPECT_EQ(sizes("importance"), "8 + 0, top 2, 0");
  EXPECT_EQ(sizes("sharing_inner"), "8 + 0, top 2, 0");
  EXPECT_EQ(sizes("residual"), "7 + 1, top 2, 0");
  EXPECT_EQ(sizes("sharing_inter"), "7 + 1, top 2, 0");
  EXPECT_EQ(sizes("pruned_random"), "1 + 0, top 1, 6");
  EXPECT_EQ(sizes("merge"), "8 + 0, top 2, 0");
  EXPECT_FALSE(testing::sizes_of("residual", 48, 1, 1).has_value());
}

TEST_P(EveryMethodTest, HasASummary) {
  EXPECT_FALSE(conversion_methods().at(GetParam()).summary.empty());
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethodTest, ::testing::ValuesIn(conversion_methods().names()),
                         [](const auto& each) { return each.param; });

TEST(ConversionMethodsTest, UnknownNameListsTheKnown) {
  EXPECT_THAT([] { conversion_methods().at("clusterd"); },
              ::testing::ThrowsMessage<InvalidArgument>(::testing::AllOf(::testing::HasSubstr("clusterd"),
                                                                         ::testing::HasSubstr("independent_random"),
                                                                         ::testing::HasSubstr("sequential"))));
}

/// The methods of this list that make parts of one size.
TEST(ConversionMethodsTest, EqualParts) {
  for (const char* name : {"independent_random", "sequential"}) {
    for (const Size& size : kSizes) {
      const LayerWidths widths = plan(name, size, 0, 5).widths();
      EXPECT_EQ(widths.experts, std::vector<int64_t>(size.experts, size.width / size.experts));
      EXPECT_EQ(widths.shared, 0);
    }
  }
}

TEST(SequentialTest, ConsecutiveBlocks) {
  EXPECT_THAT(neurons_of(plan("sequential", {12, 3}, 0, 0)),
              ::testing::ElementsAre(std::vector<int32_t>{0, 1, 2, 3}, std::vector<int32_t>{4, 5, 6, 7},
                                     std::vector<int32_t>{8, 9, 10, 11}));
}

TEST(IndependentRandomTest, SeedAndLayerChangeTheSplitAndExpertsAscend) {
  const auto base = neurons_of(plan("independent_random", {4096, 8}, 0, 1));
  EXPECT_NE(base, neurons_of(plan("independent_random", {4096, 8}, 1, 1)));
  EXPECT_NE(base, neurons_of(plan("independent_random", {4096, 8}, 0, 2)));
  for (const auto& neurons : base) EXPECT_TRUE(std::is_sorted(neurons.begin(), neurons.end()));
}

/// Two layers are as unlike as chance: an expert of one shares width / experts^2 neurons with an expert of the other.
TEST(IndependentRandomTest, LayersAreIndependent) {
  constexpr int64_t kWidth = 8192, kExperts = 4;
  const auto a = neurons_of(plan("independent_random", {kWidth, kExperts}, 0, 9)),
             b = neurons_of(plan("independent_random", {kWidth, kExperts}, 1, 9));
  for (const auto& mine : a) {
    for (const auto& theirs : b) {
      std::vector<int32_t> both;
      std::set_intersection(mine.begin(), mine.end(), theirs.begin(), theirs.end(), std::back_inserter(both));
      // Hypergeometric: mean 512, standard deviation 17.
      EXPECT_NEAR(static_cast<double>(both.size()), 512, 90);
    }
  }
}

/// Over 2000 seeds, each of 8 neurons falls to each of 4 experts as often as to any other.
TEST(IndependentRandomTest, EveryNeuronIsEquallyLikelyEverywhere) {
  constexpr int kSeeds = 2000, kWidth = 8, kExperts = 4;
  int counts[kWidth][kExperts] = {};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto experts = neurons_of(plan("independent_random", {kWidth, kExperts}, 0, seed));
    for (int e = 0; e < kExperts; ++e) {
      for (const int32_t neuron : experts[e]) ++counts[neuron][e];
    }
  }
  double chi_square = 0;
  const double expected = static_cast<double>(kSeeds) / kExperts;
  for (const auto& row : counts) {
    for (const int count : row) chi_square += (count - expected) * (count - expected) / expected;
  }
  EXPECT_LT(chi_square, 58) << "about 21 degrees of freedom";
}

}  // namespace
}  // namespace moe
