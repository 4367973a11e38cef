// RoPE: frequencies of every scaling against tables worked out in NumPy float64 by the published formulas, and what
// RoPE promises.
#include "model/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/ops.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

RopeConfig rope_of(const std::string& type, double theta, int64_t dims) {
  RopeConfig rope;
  rope.type = type;
  rope.theta = theta;
  rope.rotary_dims = dims;
  return rope;
}

RopeConfig llama3(double theta, int64_t dims, double factor) {
  RopeConfig rope = rope_of("llama3", theta, dims);
  rope.factor = factor;
  rope.original_max_positions = 8192;
  return rope;
}

ModelConfig model_with(const RopeConfig& rope, int64_t max_positions = 64) {
  ModelConfig config = testing::tiny_config();
  config.rope = rope;
  config.head_dim = rope.rotary_dims;
  config.max_positions = max_positions;
  return config;
}

/// Every `step`-th frequency is within fp32's roundings of the golden one.
void expect_frequencies(const at::Tensor& frequencies, int64_t step, const std::vector<double>& golden) {
  ASSERT_EQ(frequencies.numel(), step * static_cast<int64_t>(golden.size()));
  for (size_t i = 0; i < golden.size(); ++i) {
    EXPECT_NEAR(frequencies[step * static_cast<int64_t>(i)].item<double>() / golden[i], 1, 2e-6)
        << "pair " << step * static_cast<int64_t>(i);
  }
}

TEST(RopeFrequenciesTest, EqualGoldenTables) {
  expect_frequencies(rope_frequencies(rope_of("default", 1e4, 16), 64, 0), 1,
                     {1, 0.316227766017, 0.1, 0.0316227766017, 0.01, 0.00316227766017, 0.001, 0.000316227766017});
  RopeConfig linear = rope_of("linear", 1e4, 16);
  linear.factor = 2.5;
  expect_frequencies(rope_frequencies(linear, 64, 0), 1,
                     {0.4, 0.126491106407, 0.04, 0.0126491106407, 0.004, 0.00126491106407, 0.0004, 0.000126491106407});
  expect_frequencies(rope_frequencies(llama3(5e5, 128, 8), 131072, 0), 8,
                     {1, 0.193922744749, 0.0376060309309, 0.00729266473722, 0.000524846160993, 3.42810219595e-05,
                      6.64786987118e-06, 1.28917317215e-06});
  expect_frequencies(rope_frequencies(llama3(5e5, 64, 32), 131072, 0), 4,
                     {1, 0.193922744749, 0.0376060309309, 0.00729266473722, 0.000429556796559, 8.57025548988e-06,
                      1.6619674678e-06, 3.22293293038e-07});
  RopeConfig yarn = rope_of("yarn", 1e6, 128);
  yarn.factor = 4;
  yarn.original_max_positions = 32768;
  expect_frequencies(rope_frequencies(yarn, 131072, 0), 8,
                     {1, 0.177827941004, 0.0316227766017, 0.00537532149079, 0.000602941176471, 4.4456985251e-05,
                      7.90569415042e-06, 1.40585331298e-06});
  yarn = rope_of("yarn", 1e4, 32);
  yarn.factor = 2.5;
  yarn.original_max_positions = 64;
  yarn.beta_fast = 16;
  yarn.beta_slow = 2;
  yarn.truncate = false;
  expect_frequencies(rope_frequencies(yarn, 160, 0), 1,
                     {1, 0.443027654655, 0.182037750812, 0.0711311764016, 0.04, 0.0224936530076, 0.0126491106407,
                      0.00711311764016, 0.004, 0.00224936530076, 0.00126491106407, 0.000711311764016, 0.0004,
                      0.000224936530076, 0.000126491106407, 7.11311764016e-05});
  RopeConfig dynamic = rope_of("dynamic", 1e4, 16);
  dynamic.factor = 2;
  expect_frequencies(rope_frequencies(dynamic, 64, 160), 1,
                     {1, 0.259412817015, 0.0672950096316, 0.0174571880196, 0.00452861832132, 0.00117478163592,
                      0.000304753413551, 7.90569415042e-05});
}

TEST(RopeFrequenciesTest, Llama3WithFactorOneIsTheDefault) {
  EXPECT_TRUE(at::equal(rope_frequencies(llama3(5e5, 128, 1), 131072, 0),
                        rope_frequencies(rope_of("default", 5e5, 128), 131072, 0)));
}

TEST(RopeFrequenciesTest, DynamicIsTheDefaultUpToTheTrainedLength) {
  RopeConfig dynamic = rope_of("dynamic", 1e4, 16);
  dynamic.factor = 3;
  const at::Tensor plain = rope_frequencies(rope_of("default", 1e4, 16), 64, 0);
  for (const int64_t longest : {0, 1, 63, 64})
    EXPECT_TRUE(at::equal(rope_frequencies(dynamic, 64, longest), plain)) << longest;
  EXPECT_LT(rope_frequencies(dynamic, 64, 65)[7].item<double>(), plain[7].item<double>());
  EXPECT_LT(rope_frequencies(dynamic, 64, 99)[7].item<double>(), rope_frequencies(dynamic, 64, 65)[7].item<double>());
}

TEST(RopeFactorTest, YarnScalesTheTables) {
  RopeConfig yarn = rope_of("yarn", 1e4, 16);
  yarn.factor = 4;
  yarn.original_max_positions = 16;
  EXPECT_DOUBLE_EQ(rope_output_factor(yarn), 0.1 * std::log(4.0) + 1);
  yarn.mscale = 2;
  EXPECT_DOUBLE_EQ(rope_output_factor(yarn), 0.1 * std::log(4.0) + 1) << "one mscale alone is not used";
  yarn.mscale_all_dim = 0.5;
  EXPECT_DOUBLE_EQ(rope_output_factor(yarn), (0.2 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1));
  yarn.attention_factor = 1.25;
  EXPECT_DOUBLE_EQ(rope_output_factor(yarn), 1.25);
  const RopeAngles angles = RopeTable(model_with(yarn), at::kDouble).angles({0, 1});
  EXPECT_TRUE(near(angles.cos, at::full({1, 8}, 1.25, at::kDouble), 1e-12)) << "cos 0 times the factor";
  yarn.attention_factor.reset();
  yarn.factor = 0.5;
  yarn.mscale = 0;
  EXPECT_DOUBLE_EQ(rope_output_factor(yarn), 1);
}

/// A yarn with a factor other than 1: everything at once.
RopeConfig small_yarn() {
  RopeConfig yarn = rope_of("yarn", 1e4, 16);
  yarn.factor = 4;
  yarn.original_max_positions = 16;
  return yarn;
}

class RopeTypeTest : public ::testing::TestWithParam<std::string> {
 protected:
  static RopeConfig config() {
    RopeConfig rope = GetParam() == "yarn" ? small_yarn() : rope_of(GetParam(), 1e4, 16);
    if (GetParam() != "default") rope.factor = 2;
    rope.original_max_positions = 16;
    return rope;
  }
};
INSTANTIATE_TEST_SUITE_P(, RopeTypeTest, ::testing::Values("default", "linear", "dynamic", "llama3", "yarn"),
                         [](const auto& test) { return test.param; });

TEST_P(RopeTypeTest, ProductsOfQueryAndKeyDependOnThePositionDifferenceOnly) {
  RopeTable table(model_with(config(), 128), at::kDouble);
  const RopeAngles all = table.angles({0, 128});
  const at::Tensor q = random_normal({1, 1, 16}, 1), k = random_normal({1, 1, 16}, 2);
  const auto at_position = [&](const at::Tensor& x, int64_t p) {
    return ops::rope(x, all.cos.narrow(0, p, 1), all.sin.narrow(0, p, 1)).flatten();
  };
  const auto product = [&](int64_t p, int64_t r) {
    return at::dot(at_position(q, p), at_position(k, r)).item<double>();
  };
  for (const int64_t distance : {0, 1, 17}) {
    for (const int64_t start : {1, 40, 100}) EXPECT_NEAR(product(start + distance, start), product(distance, 0), 4e-5);
  }
  EXPECT_GT(std::abs(product(17, 0) - product(1, 0)), 1e-2);
}

// The layout of Meta's original weights, pairs (2j, 2j + 1), is the same function up to a permutation of the rows that
// make a head.
TEST_P(RopeTypeTest, InterleavedPairsWithPermutedRowsAgree) {
  const int64_t d = 16, tokens = 40;
  RopeTable table(model_with(config(), 128), at::kDouble);
  const RopeAngles angles = table.angles({0, tokens});
  const auto interleaved = [&](const at::Tensor& x) {  // [T, heads, d]
    const at::Tensor even = x.slice(2, 0, d, 2), odd = x.slice(2, 1, d, 2), cos = angles.cos.unsqueeze(1),
                     sin = angles.sin.unsqueeze(1);
    return at::stack({even * cos - odd * sin, odd * cos + even * sin}, 3).flatten(2);
  };
  std::vector<int64_t> half_row_of;  // interleaved row 2j is half row j, 2j + 1 is half row j + d/2
  for (int64_t j = 0; j < d / 2; ++j) half_row_of.insert(half_row_of.end(), {j, j + d / 2});
  const at::Tensor order = at::tensor(half_row_of, at::kLong);
  const at::Tensor x = random_normal({tokens, 24}, 1), wq = random_normal({3 * d, 24}, 2),
                   wk = random_normal({3 * d, 24}, 3);
  const at::Tensor bq = random_normal({3 * d}, 4), bk = random_normal({3 * d}, 5);
  const auto heads = [&](const at::Tensor& w, const at::Tensor& b) {
    return ops::linear(x, w, b).view({tokens, 3, d});
  };
  const auto permuted = [&](const at::Tensor& rows) {
    return rows.unflatten(0, {3, d}).index_select(1, order).flatten(0, 1);
  };
  const at::Tensor q = ops::rope(heads(wq, bq), angles.cos, angles.sin),
                   k = ops::rope(heads(wk, bk), angles.cos, angles.sin);
  const at::Tensor q_meta = interleaved(heads(permuted(wq), permuted(bq))),
                   k_meta = interleaved(heads(permuted(wk), permuted(bk)));
  const auto scores = [](const at::Tensor& a, const at::Tensor& b) { return at::einsum("ihd,jhd->hij", {a, b}); };
  EXPECT_TRUE(near(scores(q_meta, k_meta), scores(q, k), 1e-6));
  EXPECT_FALSE(near(q_meta, q, 1e-3)) << "the permutation must do something";
}

// Whatever was asked before: the same bits for a position, in memory that follows what is used.
TEST(RopeTableTest, APositionsBitsDoNotDependOnWhatWasAsked) {
  const ModelConfig config = model_with(llama3(5e5, 64, 8), 131072);
  RopeTable whole(config, at::kFloat);
  const RopeAngles all = whole.angles({0, 3000});
  RopeTable grown(config, at::kFloat);
  for (const int64_t position : {0, 700, 511, 512, 2999, 3}) {
    const RopeAngles one = grown.angles({0, 1}, {position});
    EXPECT_TRUE(at::equal(one.cos[0], all.cos[position]) && at::equal(one.sin[0], all.sin[position])) << position;
  }
  const RopeAngles several = grown.angles({0, 2, 2, 5}, {510, 9, 2000});
  EXPECT_TRUE(at::equal(several.cos, at::cat({all.cos.narrow(0, 510, 2), all.cos.narrow(0, 2000, 3)})));
  EXPECT_TRUE(at::equal(several.sin, at::cat({all.sin.narrow(0, 510, 2), all.sin.narrow(0, 2000, 3)})));
  const RopeAngles none = grown.angles({0});
  EXPECT_EQ(none.cos.sizes(), (std::vector<int64_t>{0, 32}));
}

// Under "dynamic" a sequence longer than the model was trained for turns by frequencies of its own; its neighbours do
// not.
TEST(RopeTableTest, DynamicStretchesTheLongSequenceOnly) {
  RopeConfig dynamic = rope_of("dynamic", 1e4, 16);
  dynamic.factor = 2;
  const ModelConfig config = model_with(dynamic, 32);
  RopeTable table(config, at::kDouble), plain(model_with(rope_of("default", 1e4, 16), 32), at::kDouble);
  const std::vector<int64_t> short_one{0, 20}, long_one{0, 50};
  const RopeAngles packed = table.angles({0, 20, 70});
  EXPECT_TRUE(near(packed.cos.slice(0, 0, 20), plain.angles(short_one).cos, 1e-12));
  const RopeAngles alone = table.angles(long_one);
  EXPECT_TRUE(at::equal(packed.cos.slice(0, 20), alone.cos));
  const at::Tensor expected =
      (at::arange(50, at::kDouble).unsqueeze(1) * rope_frequencies(dynamic, 32, 50).to(at::kDouble).unsqueeze(0)).sin();
  EXPECT_TRUE(near(alone.sin, expected, 1e-5));
  EXPECT_FALSE(near(alone.cos, plain.angles(long_one).cos, 1e-2));
  // One that waits beside a short one stands where no table reaches.
  EXPECT_TRUE(at::equal(table.angles({0, 0, 3}, {2000, 0}).cos, table.angles({0, 3}).cos));
  // And back: a short call has the trained frequencies again.
  EXPECT_TRUE(near(table.angles(short_one).cos, plain.angles(short_one).cos, 1e-12));
}

}  // namespace
}  // namespace moe
