// Neurons given to experts, and shared between them, by their importance: hand cases of the specifications, and a
// slow independent form.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "common/error.h"
#include "common/rng.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "convert/greedy_assignment.h"
#include "convert/neuron_scores.h"
#include "convert/shared_selection.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using testing::set_option;
using Lists = std::vector<std::vector<int32_t>>;

at::Tensor scores_of(const std::vector<std::vector<double>>& rows) {
  std::vector<at::Tensor> tensors;
  for (const std::vector<double>& row : rows) tensors.push_back(at::tensor(row, at::kDouble));
  return at::stack(tensors);
}

std::vector<int32_t> all(int64_t neurons) {
  return neurons_without(neurons, {});
}

/// The vectors of LLaMA-MoE v1 specification 1.5 and 1.6.
at::Tensor v1_scores() {
  return scores_of({{9, 8, 7, 6, 1, 2, 3, 4}, {9, 1, 8, 2, 7, 3, 6, 4}, {1, 9, 8, 2, 3, 7, 4, 6}});
}

TEST(GreedyAssignmentTest, TheV1Case) {
  EXPECT_EQ(greedy_assignment(v1_scores().narrow(0, 0, 2), 4, all(8)), (Lists{{1, 3, 5, 7}, {0, 2, 4, 6}}));
}

/// v2's form: all pairs by falling score, then falling expert, then rising neuron; whatever still fits is done.
Lists scan(const at::Tensor& scores_EF, int64_t capacity) {
  std::vector<std::tuple<double, int64_t, int32_t>> pairs;
  for (int64_t expert = 0; expert < scores_EF.size(0); ++expert) {
    for (int32_t neuron = 0; neuron < scores_EF.size(1); ++neuron)
      pairs.emplace_back(-scores_EF[expert][neuron].item<double>(), -expert, neuron);
  }
  std::sort(pairs.begin(), pairs.end());
  Lists given(scores_EF.size(0));
  std::vector<bool> is_given(scores_EF.size(1), false);
  for (const auto& [score, minus_expert, neuron] : pairs) {
    std::vector<int32_t>& expert = given[-minus_expert];
    if (is_given[neuron] || static_cast<int64_t>(expert.size()) == capacity) continue;
    is_given[neuron] = true;
    expert.push_back(neuron);
  }
  for (std::vector<int32_t>& expert : given) std::sort(expert.begin(), expert.end());
  return given;
}

/// v2 specification, B2. Whole numbers of few values, so that ties decide much.
TEST(GreedyAssignmentTest, IsTheScanOfAllPairs) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    CounterRng rng(seed, kStreamTest);
    const auto experts = static_cast<int64_t>(1 + rng.below(7)), capacity = static_cast<int64_t>(1 + rng.below(9));
    const uint64_t values = seed % 2 == 0 ? 5 : 1'000'000;
    at::Tensor scores = at::empty({experts, experts * capacity}, at::kDouble);
    for (int64_t i = 0; i < scores.numel(); ++i)
      scores.mutable_data_ptr<double>()[i] = static_cast<double>(rng.below(values));
    EXPECT_EQ(greedy_assignment(scores, capacity, all(experts * capacity)), scan(scores, capacity)) << "seed " << seed;
  }
}

TEST(GreedyAssignmentTest, GivesOnlyWhatItMay) {
  EXPECT_EQ(greedy_assignment(v1_scores(), 2, {2, 3, 6, 7}), (Lists{{3}, {6}, {2, 7}}))
      << "2 at 8 to the higher of two, then of three at 6 the highest first";
  EXPECT_THROW(greedy_assignment(v1_scores(), 2, all(8)), Internal);
}

/// v1 1.6.
TEST(BestNeuronsTest, TheV1Case) {
  Lists best;
  for (int64_t expert = 0; expert < 3; ++expert) best.push_back(best_neurons(v1_scores()[expert], 2));
  EXPECT_EQ(best, (Lists{{0, 1}, {0, 2}, {1, 2}}));
  EXPECT_THAT(by_falling_score(at::tensor({1., 3., 3., 2.}, at::kDouble)), ElementsAre(1, 2, 3, 0));
}

/// v1 1.7, and v2 B3 round by round.
TEST(SharedSelectionTest, TheCasesOfV1AndV2) {
  EXPECT_THAT(shared_selection(v1_scores(), 2, 2), ElementsAre(0, 1));

  const at::Tensor b3 = scores_of({{6, 5, 4, 3, 2, 1}, {1, 6, 5, 2, 3, 4}});
  EXPECT_THAT(shared_selection(b3, 2, 1), ElementsAre(1));
  const std::vector<int32_t> shared = shared_selection(b3, 2, 2);
  EXPECT_THAT(shared, ElementsAre(1, 2));
  const std::vector<int32_t> left = neurons_without(6, shared);
  EXPECT_THAT(left, ElementsAre(0, 3, 4, 5));
  EXPECT_EQ(greedy_assignment(b3, 2, left), (Lists{{0, 3}, {4, 5}}));
}

/// The whole of v1 1.7's case: three routed experts of 2 neurons beside the shared ones, which may overlap.
TEST(SharedSelectionTest, RoutedExpertsOfTheV1Case) {
  const ConversionMethod& method = conversion_methods().at("sharing_inter");
  v1::ConvertSpec spec;
  spec.mutable_ffn()->set_method("sharing_inter");
  spec.mutable_ffn()->set_experts(3);
  spec.mutable_ffn()->set_shared_experts(1);
  spec.mutable_ffn()->set_expert_width(2);
  set_option(spec, "normalise", "none");
  ModelConfig config;
  config.intermediate_size = 8;
  const MethodOptions options(method.options, spec);
  const Importance importance{.scores_GF = v1_scores(), .tokens_G = at::ones({3}, at::kLong)};
  const LayerPlan plan = method.plan({.config = config, .spec = spec, .importance = &importance, .options = options},
                                     *make_self_communicator());
  EXPECT_THAT(neurons_in(plan.shared), ElementsAre(0, 1));
  Lists routed;
  for (const ExpertPlan& expert : plan.experts) routed.push_back(neurons_in(expert));
  EXPECT_EQ(routed, (Lists{{2, 3}, {2, 4}, {2, 5}}));
}

/// What v1 counts with its E vectors and with all of them.
TEST(SharedSelectionTest, MoreGroupsChangeWhatMostHave) {
  const at::Tensor scores = scores_of({{4, 3, 2, 1}, {4, 1, 3, 2}, {1, 2, 3, 4}, {1, 2, 4, 3}});
  EXPECT_THAT(shared_selection(scores.narrow(0, 0, 2), 1, 1), ElementsAre(0));
  EXPECT_THAT(shared_selection(scores, 2, 1), ElementsAre(2));
  EXPECT_THAT(shared_selection(scores, 2, 4), ElementsAre(0, 1, 2, 3)) << "windows end with the neurons";
}

/// The v1 case of 1.5 by rising scores: 1 and 4 at 1, 3 and 5 at 2, 6 at 3, 7 at 4, 2 at 7, 0 at 9.
TEST(GreedyAssignmentTest, TheLeastFirstWhereCriterionIsMin) {
  const ConversionMethod& method = conversion_methods().at("independent_gradient");
  v1::ConvertSpec spec;
  spec.mutable_ffn()->set_method("independent_gradient");
  spec.mutable_ffn()->set_experts(2);
  ModelConfig config;
  config.intermediate_size = 8;
  const Importance importance{.scores_GF = scores_of({{9, 8, 7, 6, 1, 2, 3, 4}, {9, 1, 8, 2, 7, 3, 6, 4}}),
                              .tokens_G = at::ones({2}, at::kLong)};
  const auto plan = [&](const char* criterion) {
    set_option(spec, "criterion", criterion);
    const MethodOptions options(method.options, spec);
    Lists experts;
    for (const ExpertPlan& expert :
         method
             .plan({.config = config, .spec = spec, .importance = &importance, .options = options},
                   *make_self_communicator())
             .experts)
      experts.push_back(neurons_in(expert));
    return experts;
  };
  set_option(spec, "normalise", "none");
  EXPECT_EQ(plan("max"), (Lists{{1, 3, 5, 7}, {0, 2, 4, 6}}));
  EXPECT_EQ(plan("min"), (Lists{{2, 4, 5, 6}, {0, 1, 3, 7}}));
}

/// Swapped neighbours of four: 1 - 6 * 2 / (4 * 15). Equal scores share a rank: by hand, ranks 1, 2.5, 2.5, 4 against 1
/// to 4 are 4.5 / sqrt(4.5 * 5).
TEST(RankCorrelationTest, IsSpearmans) {
  const auto of = [](const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
    return rank_correlation(scores_of(a), scores_of(b));
  };
  EXPECT_DOUBLE_EQ(of({{1, 2, 3, 40}}, {{0.1, 0.2, 0.4, 0.3}}), 0.8);
  EXPECT_DOUBLE_EQ(of({{1, 2, 3}}, {{9, 8, 7}}), -1);
  EXPECT_NEAR(of({{1, 2, 2, 4}}, {{1, 2, 3, 4}}), 0.94868329805, 1e-10);
  EXPECT_DOUBLE_EQ(of({{1, 2, 3, 4}, {1, 2, 3, 4}, {0, 0, 0, 0}}, {{1, 2, 4, 3}, {1, 2, 3, 4}, {1, 2, 3, 4}}), 0.9);
  EXPECT_TRUE(std::isnan(of({{0, 0}}, {{1, 2}})));
}

TEST(ComparableScoresTest, Forms) {
  const Importance importance{.scores_GF = scores_of({{2, 6, 6, 2}, {0, 0, 0, 0}, {1, 0, 2, 1}}),
                              .tokens_G = at::tensor({4, 0, 1}, at::kLong)};
  EXPECT_TRUE(
      at::equal(comparable_scores(importance, "none"), scores_of({{0.5, 1.5, 1.5, 0.5}, {0, 0, 0, 0}, {1, 0, 2, 1}})));
  EXPECT_TRUE(at::equal(comparable_scores(importance, "per_cluster_sum"),
                        scores_of({{0.125, 0.375, 0.375, 0.125}, {0, 0, 0, 0}, {0.25, 0, 0.5, 0.25}})));
  EXPECT_TRUE(at::equal(comparable_scores(importance, "rank"), scores_of({{2, 4, 3, 1}, {4, 3, 2, 1}, {3, 1, 4, 2}})));
}

}  // namespace
}  // namespace moe
