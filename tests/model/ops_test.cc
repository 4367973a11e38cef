// Every operation against the same function written with LibTorch's own differentiable operations, in float64; and the
// promise that a row's result does not depend on the rows beside it.
#include "model/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "common/error.h"
#include "model/moe/router.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/row_bits.h"
#include "testing/same_function.h"

namespace moe {
namespace {

using testing::expect_same_function;
using testing::near;
using testing::random_normal;

class RowsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Rows, RowsTest, ::testing::Values(0, 1, 37));

TEST_P(RowsTest, LinearEqualsReference) {
  expect_same_function([](const auto& in) { return ops::linear(in[0], in[1]); },
                       [](const auto& in) { return at::matmul(in[0], in[1].t()); },
                       {random_normal({GetParam(), 43}, 1), random_normal({17, 43}, 2)});
}

TEST_P(RowsTest, SwigluEqualsReference) {
  expect_same_function([](const auto& in) { return ops::swiglu(in[0]); },
                       [](const auto& in) {
                         const std::vector<at::Tensor> halves = in[0].chunk(2, 1);
                         return halves[0] * at::sigmoid(halves[0]) * halves[1];
                       },
                       {random_normal({GetParam(), 86}, 1) * 3});
}

TEST_P(RowsTest, RmsNormEqualsReference) {
  expect_same_function([](const auto& in) { return ops::rms_norm(in[0], in[1], 1e-2); },
                       [](const auto& in) { return in[0] / at::sqrt((in[0].pow(2)).mean(1, true) + 1e-2) * in[1]; },
                       {random_normal({GetParam(), 45}, 1), random_normal({45}, 2)});
}

TEST_P(RowsTest, RopeEqualsComplexMultiplication) {
  const at::Tensor angles = random_normal({GetParam(), 4}, 3);
  expect_same_function([&](const auto& in) { return ops::rope(in[0], angles.cos(), angles.sin()); },
                       [&](const auto& in) {
                         const at::Tensor pairs = at::complex(in[0].slice(2, 0, 4), in[0].slice(2, 4));
                         const at::Tensor turned = pairs * at::polar(at::ones_like(angles), angles).unsqueeze(1);
                         return at::cat({at::real(turned), at::imag(turned)}, 2);
                       },
                       {random_normal({GetParam(), 3, 8}, 1)});
}

TEST_P(RowsTest, SwigluOfTwoTensorsEqualsThePackedOne) {
  expect_same_function([](const auto& in) { return ops::swiglu(in[0], in[1]); },
                       [](const auto& in) {
                         return ops::swiglu(at::cat({in[0], in[1]}, 1));
                       },
                       {random_normal({GetParam(), 43}, 1), random_normal({GetParam(), 43}, 2)});
}

TEST_P(RowsTest, LinearCrossEntropyEqualsReference) {
  const int64_t rows = GetParam();
  at::Tensor labels = at::arange(rows, at::kLong).remainder(7);
  labels.masked_fill_(labels.eq(2), -100);
  expect_same_function([&](const auto& in) { return ops::linear_cross_entropy(in[0], in[1], labels); },
                       [&](const auto& in) {
                         const at::Tensor logits = at::matmul(in[0], in[1].t());
                         const at::Tensor kept = labels.ne(-100).to(at::kDouble),
                                          index = labels.clamp_min(0).unsqueeze(1);
                         return (at::logsumexp(logits, 1) - logits.gather(1, index).squeeze(1)) * kept;
                       },
                       {random_normal({rows, 5}, 1) * 3, random_normal({7, 5}, 2)});
}

TEST(LinearCrossEntropyTest, StaysFiniteForHugeLogitsAndShowsWhatIsNotFinite) {
  const auto loss = [](float first, float second, int64_t label) {
    return ops::linear_cross_entropy(at::ones({1, 1}), at::tensor({first, second}).view({2, 1}), at::tensor({label}))
        .item<float>();
  };
  EXPECT_FLOAT_EQ(loss(1e4f, -1e4f, 1), 2e4f);
  EXPECT_NEAR(loss(0, 0, 0), std::log(2.0), 1e-6);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_FALSE(std::isfinite(loss(bad, 0, 0))) << bad;
    EXPECT_FALSE(std::isfinite(loss(bad, 0, 1))) << bad;
  }
}

// The float exponential inside: silu over a wide range against float64.
TEST(SwigluTest, FloatIsWithinAFewRoundingsOfDouble) {
  const at::Tensor gate = at::linspace(-100, 100, 40001, at::kDouble).view({-1, 1}).to(at::kFloat);
  const at::Tensor y = ops::swiglu(gate, at::ones_like(gate)).to(at::kDouble);
  const at::Tensor expected = gate.to(at::kDouble) * at::sigmoid(gate.to(at::kDouble));
  // Absolute below 1e-30, where floats end; relative elsewhere.
  EXPECT_LT(((y - expected).abs() / (expected.abs() + 1e-30)).max().item<double>(), 1e-6);
  EXPECT_TRUE(std::isnan(ops::swiglu(at::full({1, 1}, NAN), at::ones({1, 1})).item<float>()));
}

struct Grouping {
  const char* name;
  std::vector<int64_t> rows_per_expert;
};
class GroupedLinearTest : public ::testing::TestWithParam<Grouping> {};
INSTANTIATE_TEST_SUITE_P(, GroupedLinearTest,
                         ::testing::Values(Grouping{"some", {5, 3, 9}}, Grouping{"one_without", {5, 0, 9}},
                                           Grouping{"all_on_one", {0, 0, 11}}, Grouping{"none", {0, 0, 0}}),
                         [](const auto& test) { return test.param.name; });

TEST_P(GroupedLinearTest, EqualsOneProductPerExpert) {
  const std::vector<int64_t>& counts = GetParam().rows_per_expert;
  int64_t rows = 0;
  for (const int64_t count : counts) rows += count;
  expect_same_function([&](const auto& in) { return ops::grouped_linear(in[0], in[1], counts); },
                       [&](const auto& in) {
                         std::vector<at::Tensor> parts;
                         const std::vector<at::Tensor> split = in[0].split_with_sizes(counts, 0);
                         for (size_t e = 0; e < counts.size(); ++e) {
                           parts.push_back(at::matmul(split[e], in[1][static_cast<int64_t>(e)].t()));
                         }
                         return at::cat(parts);
                       },
                       {random_normal({rows, 43}, 1), random_normal({3, 29, 43}, 2)});
}

TEST(PermuteTest, ThereAndBackEqualIndexing) {
  // 4 tokens, 2 slots; one slot is not here.
  const at::Tensor slot_rows =
      at::tensor({int64_t{3}, int64_t{0}, int64_t{1}, int64_t{4}, int64_t{-1}, int64_t{2}, int64_t{6}, int64_t{5}})
          .view({4, 2});
  const at::Tensor row_tokens =
      at::tensor({int64_t{0}, int64_t{1}, int64_t{2}, int64_t{0}, int64_t{1}, int64_t{3}, int64_t{3}});
  expect_same_function([&](const auto& in) { return ops::permute(in[0], row_tokens, slot_rows); },
                       [&](const auto& in) { return in[0].index_select(0, row_tokens); }, {random_normal({4, 19}, 1)});
  expect_same_function(
      [&](const auto& in) { return ops::unpermute(in[0], slot_rows, in[1]); },
      [&](const auto& in) {
        const at::Tensor here = slot_rows.ge(0).to(at::kDouble);
        const at::Tensor rows = in[0].index_select(0, slot_rows.clamp_min(0).flatten()).view({4, 2, 19});
        return (rows * (in[1] * here).unsqueeze(2)).sum(1);
      },
      {random_normal({7, 19}, 2), random_normal({4, 2}, 3)});
}

TEST(OpsTest, UnpermuteInBf16TakesWeightsOfEitherType) {
  const at::Tensor slot_rows = at::tensor({int64_t{2}, int64_t{0}, int64_t{1}, int64_t{-1}}).view({2, 2});
  const at::Tensor rows_RD = random_normal({3, 37}, 1, at::kBFloat16),
                   weights_TK = random_normal({2, 2}, 2, at::kBFloat16);
  const at::Tensor dy_TD = random_normal({2, 37}, 3, at::kBFloat16);
  // The same in double, from the same rounded inputs.
  const at::Tensor rows = rows_RD.to(at::kDouble), weights = weights_TK.to(at::kDouble), dy = dy_TD.to(at::kDouble);
  const at::Tensor here = slot_rows.ge(0).to(at::kDouble);
  const at::Tensor chosen = rows.index_select(0, slot_rows.clamp_min(0).flatten()).view({2, 2, 37}) * here.unsqueeze(2);
  const at::Tensor expected = (chosen * weights.unsqueeze(2)).sum(1);
  const at::Tensor expected_dweights = (chosen * dy.unsqueeze(1)).sum(2);
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const at::Tensor in = weights_TK.to(type).clone().set_requires_grad(true);
    const at::Tensor leaf = rows_RD.clone().set_requires_grad(true);
    const at::Tensor y = ops::unpermute(leaf, slot_rows, in);
    y.backward(dy_TD);
    EXPECT_LT((y.to(at::kDouble) - expected).abs().max().item<double>(), 0.02 * expected.abs().max().item<double>());
    EXPECT_EQ(in.grad().scalar_type(), type);
    EXPECT_LT((in.grad().to(at::kDouble) - expected_dweights).abs().max().item<double>(),
              0.02 * expected_dweights.abs().max().item<double>());
    EXPECT_EQ(leaf.grad().scalar_type(), at::kBFloat16);
    EXPECT_LT((leaf.grad()[2].to(at::kDouble) - weights[0][0] * dy[0]).abs().max().item<double>(), 0.05);
  }
}

/// Value and gradients in bf16 are those of float64 on the same numbers, rounded once.
void expect_same_in_bfloat16(const testing::TensorFunction& function, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> rounded, exact;
  for (const at::Tensor& input : inputs) {
    rounded.push_back(input.to(at::kBFloat16).requires_grad_(true));
    exact.push_back(rounded.back().detach().to(at::kDouble).requires_grad_(true));
  }
  const at::Tensor ours = function(rounded), expected = function(exact);
  EXPECT_EQ(ours.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(near(ours.detach(), expected.detach(), 1.0 / 256));
  const at::Tensor dy = random_normal(ours.sizes().vec(), 99).to(at::kBFloat16);
  ours.backward(dy);
  expected.backward(dy.to(at::kDouble));
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(rounded[i].grad().scalar_type(), at::kBFloat16);
    EXPECT_TRUE(near(rounded[i].grad(), exact[i].grad(), 1.0 / 128)) << "gradient of input " << i;
  }
}

TEST(BFloat16Test, ProductsAndMovesOfRowsAreThoseOfFloat64Rounded) {
  expect_same_in_bfloat16([](const auto& in) { return ops::linear(in[0], in[1]); },
                          {random_normal({37, 43}, 1), random_normal({17, 43}, 2)});
  expect_same_in_bfloat16(
      [](const auto& in) {
        return ops::grouped_linear(in[0], in[1], {5, 0, 70});
      },
      {random_normal({75, 43}, 1), random_normal({3, 29, 43}, 2)});
  const at::Tensor row_tokens = at::tensor({0, 1, 2, 0, 1, 3, 3}, at::kLong),
                   slot_rows = at::tensor({3, 0, 1, 4, -1, 2, 6, 5}, at::kLong).view({4, 2});
  expect_same_in_bfloat16([&](const auto& in) { return ops::permute(in[0], row_tokens, slot_rows); },
                          {random_normal({4, 19}, 1)});
  expect_same_in_bfloat16([&](const auto& in) { return ops::sum_slots(in[0], row_tokens, slot_rows); },
                          {random_normal({7, 19}, 1)});
}

/// Nothing computes in bf16 by accident, or fails deep inside a library.
TEST(BFloat16Test, OtherOperationsRefuseItInWords) {
  const auto bf16 = [](std::vector<int64_t> shape) { return random_normal(shape, 1).to(at::kBFloat16); };
  const at::Tensor x = bf16({4, 8}), weight = bf16({8, 8}), vector = bf16({8}), heads = bf16({4, 2, 8}),
                   angles = bf16({4, 4});
  const std::map<std::string, std::function<void()>> operations{
      {"linear with bias", [&] { ops::linear(x, weight, vector); }},
      {"add_bias", [&] { ops::add_bias(x, vector); }},
      {"swiglu", [&] { ops::swiglu(x); }},
      {"gelu_new", [&] { ops::gelu_new(x); }},
      {"rms_norm", [&] { ops::rms_norm(x, vector, 1e-5); }},
      {"layer_norm", [&] { ops::layer_norm(x, vector, vector, 1e-5); }},
      {"rope", [&] { ops::rope(heads, angles, angles); }},
      {"causal_attention",
       [&] {
         ops::causal_attention(heads, heads, heads, {0, 4});
       }},
      {"linear_cross_entropy", [&] { ops::linear_cross_entropy(x, weight, at::zeros({4}, at::kLong)); }},
      {"route", [&] { route(x, weight, 2, TopkNorm::kRenorm); }}};
  for (const auto& [name, operation] : operations) {
    try {
      operation();
      ADD_FAILURE() << name << " took bfloat16";
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find("row operations take float32 and float64, not "), std::string::npos)
          << name << ": " << error.what();
    }
  }
}

// In fp32, whatever the width.
class RowBitsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Width, RowBitsTest, ::testing::Values(8, 43, 64, 86, 172, 256));

TEST_P(RowBitsTest, RowsDoNotDependOnTheirNeighbours) {
  const int64_t rows = 61, width = GetParam();
  const at::Tensor x = random_normal({rows, width}, 1, at::kFloat), dy = random_normal({rows, width}, 2, at::kFloat);
  const at::Tensor norm = random_normal({width}, 3, at::kFloat), weight = random_normal({width, width}, 4, at::kFloat);
  const at::Tensor angles = random_normal({rows, width / 2}, 5, at::kFloat);
  const at::Tensor labels = at::arange(rows, at::kLong).remainder(width);
  const std::map<std::string, testing::RowFunction> functions{
      {"linear", [&](const at::Tensor& in, int64_t) { return ops::linear(in, weight); }},
      {"rms_norm", [&](const at::Tensor& in, int64_t) { return ops::rms_norm(in, norm, 1e-5); }},
      {"swiglu", [&](const at::Tensor& in, int64_t) { return width % 2 == 0 ? ops::swiglu(in) : in * 1; }},
      {"rope",
       [&](const at::Tensor& in, int64_t first) {
         if (width % 2 != 0) return in * 1;
         const at::Tensor part = angles.narrow(0, first, in.size(0));
         return ops::rope(in.unsqueeze(1), part.cos(), part.sin()).squeeze(1);
       }},
      {"linear_cross_entropy", [&](const at::Tensor& in, int64_t first) {
         return ops::linear_cross_entropy(in, weight, labels.narrow(0, first, in.size(0))).unsqueeze(1);
       }}};
  testing::expect_rows_alone(functions, x, dy);
}

}  // namespace
}  // namespace moe
