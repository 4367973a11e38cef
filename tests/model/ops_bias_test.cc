// Biases, LayerNorm, gelu_new and RoPE on a part of a head: against LibTorch's own operations in float64, and the
// promise that a row's result does not depend on the rows beside it.
#include <gtest/gtest.h>

#include <cmath>

#include "model/ops.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/row_bits.h"
#include "testing/same_function.h"

namespace moe {
namespace {

using testing::beside;
using testing::expect_same_function;
using testing::random_normal;

at::Tensor gelu_new_written_out(const at::Tensor& x) {
  return 0.5 * x * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))));
}

class BiasTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Rows, BiasTest, ::testing::Values(0, 1, 37, 130));

TEST_P(BiasTest, LinearWithBiasEqualsReference) {
  expect_same_function([](const auto& in) { return ops::linear(in[0], in[1], in[2]); },
                       [](const auto& in) { return at::matmul(in[0], in[1].t()) + in[2]; },
                       {random_normal({GetParam(), 43}, 1), random_normal({17, 43}, 2), random_normal({17}, 3)});
}

// The gradient comes as a part of a wider matrix: rows that stand apart.
TEST_P(BiasTest, GradientsMayHaveStrides) {
  const auto packed = [](const auto& linear) {
    return [linear](const auto& in) { return at::cat({linear(in), in[0]}, 1); };
  };
  expect_same_function(packed([](const auto& in) { return ops::linear(in[0], in[1], in[2]); }),
                       packed([](const auto& in) { return at::matmul(in[0], in[1].t()) + in[2]; }),
                       {random_normal({GetParam(), 5}, 1), random_normal({6, 5}, 2), random_normal({6}, 3)});
}

TEST_P(BiasTest, AddBiasEqualsReference) {
  expect_same_function([](const auto& in) { return ops::add_bias(in[0], in[1]); },
                       [](const auto& in) { return in[0] + in[1]; },
                       {random_normal({GetParam(), 19}, 1), random_normal({19}, 2)});
}

TEST_P(BiasTest, LayerNormEqualsReference) {
  expect_same_function([](const auto& in) { return ops::layer_norm(in[0], in[1], in[2], 1e-2); },
                       [](const auto& in) { return at::layer_norm(in[0], {45}, in[1], in[2], 1e-2); },
                       {random_normal({GetParam(), 45}, 1) * 2 + 3, random_normal({45}, 2), random_normal({45}, 3)});
}

TEST_P(BiasTest, GeluNewEqualsReference) {
  expect_same_function([](const auto& in) { return ops::gelu_new(in[0]); },
                       [](const auto& in) { return gelu_new_written_out(in[0]); },
                       {random_normal({GetParam(), 43}, 1) * 3});
}

TEST_P(BiasTest, RopeTurnsThePartAndPassesTheRest) {
  const at::Tensor angles = random_normal({GetParam(), 3}, 3);
  expect_same_function(
      [&](const auto& in) { return ops::rope(in[0], beside(in[0], angles.cos()), beside(in[0], angles.sin())); },
      [&](const auto& in) {
        const at::Tensor pairs = at::complex(in[0].slice(2, 0, 3), in[0].slice(2, 3, 6));
        const at::Tensor turned = pairs * at::polar(at::ones_like(angles), angles).unsqueeze(1);
        return at::cat({at::real(turned), at::imag(turned), in[0].slice(2, 6)}, 2);
      },
      {random_normal({GetParam(), 2, 10}, 1)});
}

TEST_P(BiasTest, LinearCrossEntropyWithBiasEqualsReference) {
  const int64_t rows = GetParam();
  at::Tensor labels = at::arange(rows, at::kLong).remainder(7);
  labels.masked_fill_(labels.eq(2), -100);
  expect_same_function(
      [&](const auto& in) { return ops::linear_cross_entropy(in[0], in[1], beside(in[0], labels), in[2]); },
      [&](const auto& in) {
        const at::Tensor logits = at::matmul(in[0], in[1].t()) + in[2];
        const at::Tensor kept = labels.ne(-100).to(at::kDouble), index = labels.clamp_min(0).unsqueeze(1);
        return (at::logsumexp(logits, 1) - logits.gather(1, index).squeeze(1)) * kept;
      },
      {random_normal({rows, 5}, 1) * 3, random_normal({7, 5}, 2), random_normal({7}, 3)});
}

TEST(GroupedBiasTest, EveryExpertAddsItsOwnAlsoWhenOneHasNoRows) {
  for (const std::vector<int64_t>& counts : {std::vector<int64_t>{5, 3, 90}, {5, 0, 9}, {0, 0, 0}}) {
    const int64_t rows = counts[0] + counts[1] + counts[2];
    expect_same_function(
        [&](const auto& in) { return ops::grouped_linear(in[0], in[1], beside(in[0], at::tensor(counts)), in[2]); },
        [&](const auto& in) {
          std::vector<at::Tensor> parts;
          const std::vector<at::Tensor> split = in[0].split_with_sizes(counts, 0);
          for (int64_t e = 0; e < 3; ++e)
            parts.push_back(at::matmul(split[static_cast<size_t>(e)], in[1][e].t()) + in[2][e]);
          return at::cat(parts);
        },
        {random_normal({rows, 11}, 1), random_normal({3, 7, 11}, 2), random_normal({3, 7}, 3)});
  }
}

// Frozen weights with a trained bias and the reverse: each gradient is asked for by itself.
TEST(BiasGradientTest, IsAskedForByItself) {
  const at::Tensor x = random_normal({9, 4}, 1), weight = random_normal({3, 4}, 2);
  const at::Tensor bias = random_normal({3}, 3).requires_grad_(true);
  ops::linear(x, weight, bias).sum().backward();
  EXPECT_TRUE(testing::near(bias.grad(), at::full({3}, 9.0, at::kDouble), 1e-12));
  const at::Tensor trained = weight.clone().requires_grad_(true);
  ops::linear(x, trained, bias.detach()).sum().backward();
  EXPECT_TRUE(testing::near(trained.grad(), x.sum(0).expand({3, 4}), 1e-12));
}

// The float arithmetic inside, over a wide range, against float64: absolute, as a sum of such values sees it.
TEST(GeluNewTest, FloatIsWithinAFewRoundingsOfDouble) {
  const at::Tensor x = at::linspace(-50, 50, 40001, at::kDouble).view({-1, 1}).to(at::kFloat);
  const at::Tensor exact = gelu_new_written_out(x.to(at::kDouble)), y = ops::gelu_new(x).to(at::kDouble);
  EXPECT_LT(((y - exact).abs() / (exact.abs() + 1)).max().item<double>(), 3e-7);
  EXPECT_TRUE(std::isnan(ops::gelu_new(at::full({1, 1}, NAN)).item<float>()));
}

class BiasRowBitsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Width, BiasRowBitsTest, ::testing::Values(8, 43, 86, 256));

TEST_P(BiasRowBitsTest, RowsDoNotDependOnTheirNeighbours) {
  const int64_t rows = 61, width = GetParam();
  const at::Tensor x = random_normal({rows, width}, 1, at::kFloat), dy = random_normal({rows, width}, 2, at::kFloat);
  const at::Tensor norm = random_normal({width}, 3, at::kFloat), bias = random_normal({width}, 4, at::kFloat);
  const at::Tensor weight = random_normal({width, width}, 5, at::kFloat);
  testing::expect_rows_alone(
      {{"linear", [&](const at::Tensor& in, int64_t) { return ops::linear(in, weight, bias); }},
       {"grouped_linear",
        [&](const at::Tensor& in, int64_t) {
          return ops::grouped_linear(in, weight.unsqueeze(0), at::tensor({in.size(0)}, at::kLong), bias.unsqueeze(0));
        }},
       {"add_bias", [&](const at::Tensor& in, int64_t) { return ops::add_bias(in, bias); }},
       {"layer_norm", [&](const at::Tensor& in, int64_t) { return ops::layer_norm(in, norm, bias, 1e-5); }},
       {"gelu_new", [&](const at::Tensor& in, int64_t) { return ops::gelu_new(in); }}},
      x, dy);
}

}  // namespace
}  // namespace moe
