// What every conversion method must hold, over every name of the registry: docs/adding.md promises these to a new
// method.

#include "convert/conversion_methods.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace moe {
namespace {

struct Size {
  int64_t width, experts;
};

/// FFN widths and expert counts of the models that the papers convert, and one that no power of two divides.
constexpr Size kSizes[] = {{11008, 8}, {11008, 16}, {13824, 16}, {14336, 8}, {14336, 16},
                           {8640, 8},  {8640, 16},  {172, 4},    {768, 1},   {7, 7}};

class EveryMethodTest : public ::testing::TestWithParam<std::string> {
 protected:
  Split split(const SplitRequest& request) const { return conversion_methods().at(GetParam()).split(request); }
};

TEST_P(EveryMethodTest, ExpertsArePartsOfEqualSize) {
  for (const auto& [width, experts] : kSizes) {
    for (const int64_t layer : {0, 31}) {
      const Split split = this->split({width, experts, layer, /*seed=*/5});
      ASSERT_EQ(static_cast<int64_t>(split.experts.size()), experts);
      std::multiset<int32_t> all;
      for (const std::vector<int32_t>& neurons : split.experts) {
        EXPECT_EQ(static_cast<int64_t>(neurons.size()), width / experts);
        all.insert(neurons.begin(), neurons.end());
      }
      if (!conversion_methods().at(GetParam()).is_partition) continue;
      int32_t expected = 0;
      for (const int32_t neuron : all) ASSERT_EQ(neuron, expected++) << width << " / " << experts;
      EXPECT_EQ(expected, width);
    }
  }
}

TEST_P(EveryMethodTest, SameRequestSameSplit) {
  const SplitRequest request{8640, 16, 3, 77};
  EXPECT_EQ(split(request).experts, split(request).experts);
}

TEST_P(EveryMethodTest, HasASummary) {
  EXPECT_FALSE(conversion_methods().at(GetParam()).summary.empty());
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethodTest, ::testing::ValuesIn(conversion_methods().names()),
                         [](const auto& each) { return each.param; });

TEST(ConversionMethodsTest, UnknownNameListsTheKnown) {
  try {
    conversion_methods().at("clusterd");
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(),
                ::testing::AllOf(::testing::HasSubstr("clusterd"), ::testing::HasSubstr("independent_random"),
                                 ::testing::HasSubstr("sequential")));
  }
}

TEST(SequentialSplitTest, ConsecutiveBlocks) {
  const Split split = conversion_methods().at("sequential").split({12, 3, 0, 0});
  EXPECT_THAT(split.experts, ::testing::ElementsAre(std::vector<int32_t>{0, 1, 2, 3}, std::vector<int32_t>{4, 5, 6, 7},
                                                    std::vector<int32_t>{8, 9, 10, 11}));
}

TEST(RandomSplitTest, SeedAndLayerChangeTheSplitAndExpertsAscend) {
  const ConversionMethod& method = conversion_methods().at("independent_random");
  const auto base = method.split({4096, 8, 0, 1}).experts;
  EXPECT_NE(base, method.split({4096, 8, 1, 1}).experts);
  EXPECT_NE(base, method.split({4096, 8, 0, 2}).experts);
  for (const auto& neurons : base) EXPECT_TRUE(std::is_sorted(neurons.begin(), neurons.end()));
}

/// Two layers are as unlike as chance: an expert of one shares width / experts^2 neurons with an expert of the other.
TEST(RandomSplitTest, LayersAreIndependent) {
  constexpr int64_t kWidth = 8192, kExperts = 4;
  const ConversionMethod& method = conversion_methods().at("independent_random");
  const auto a = method.split({kWidth, kExperts, 0, 9}).experts, b = method.split({kWidth, kExperts, 1, 9}).experts;
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
TEST(RandomSplitTest, EveryNeuronIsEquallyLikelyEverywhere) {
  constexpr int kSeeds = 2000, kWidth = 8, kExperts = 4;
  const ConversionMethod& method = conversion_methods().at("independent_random");
  int counts[kWidth][kExperts] = {};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Split split = method.split({kWidth, kExperts, 0, seed});
    for (int e = 0; e < kExperts; ++e) {
      for (const int32_t neuron : split.experts[e]) ++counts[neuron][e];
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
