#include "convert/router_init.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

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

/// The router that `init` makes of the features, spread unevenly over `ranks` ranks.
at::Tensor make_router(const std::string& init, const std::string& scaling, int ranks, int64_t layer = 0,
                       uint64_t seed = 21) {
  const at::Tensor all = features();
  at::Tensor result;
  testing::run_ranks(ranks, [&](Communicator& world) {
    const int64_t first = kTokens * world.rank() * world.rank() / (ranks * ranks),
                  last = kTokens * (world.rank() + 1) * (world.rank() + 1) / (ranks * ranks);
    const CalibrationFeatures mine{all.slice(0, first, last), first, kTokens};
    const at::Tensor router = router_inits().at(init).make({kExperts, kHidden, layer, seed, scaling, &mine}, world);
    if (world.rank() == ranks - 1) result = router;
  });
  return result;
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
  for (const int ranks : {1, 2, 3})
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
        .make({kExperts, kHidden, 0, 0, "calibrated", &few}, *make_self_communicator());
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
          router_inits().at("random_selection").make({kExperts, kHidden, layer, 0, "raw", &mine}, world);
      EXPECT_EQ(std::get<0>(at::unique_dim(router, 0)).size(0), kExperts) << "layer " << layer;
    }
  });
}

TEST(RandomSelectionTest, TextWithTooFewDifferentTokensIsRefused) {
  const CalibrationFeatures same{at::ones({100, kHidden}), 0, 100};
  EXPECT_THROW(router_inits()
                   .at("random_selection")
                   .make({kExperts, kHidden, 0, 0, "calibrated", &same}, *make_self_communicator()),
               InvalidArgument);
}

TEST(KaimingTest, UniformWithinTheBound) {
  const auto communicator = make_self_communicator();
  const at::Tensor router =
      router_inits().at("kaiming").make({64, 1024, 0, 1, "calibrated", nullptr}, *communicator).to(at::kDouble);
  const double bound = 1 / std::sqrt(1024.0);
  EXPECT_LE(testing::max_abs(router), bound);
  EXPECT_NEAR(router.mean().item<double>() / bound, 0, 0.01);
  EXPECT_NEAR(router.var().item<double>() / (bound * bound / 3), 1, 0.02);
}

TEST(ZeroTest, IsZero) {
  EXPECT_EQ(testing::max_abs(make_router("zero", "calibrated", 1)), 0);
}

TEST(RouterLogitDeviationTest, CountsEveryRanksTokens) {
  const at::Tensor all = features(), router = make_router("kaiming", "calibrated", 1);
  testing::run_ranks(3, [&](Communicator& world) {
    const int64_t first = world.rank() * 200;
    const CalibrationFeatures mine{all.slice(0, first, first + 200), first, kTokens};
    EXPECT_NEAR(router_logit_deviation(router, mine, world), logit_deviation(router), 1e-5 * logit_deviation(router));
  });
}

}  // namespace
}  // namespace moe
