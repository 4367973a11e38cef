// The analytic split against its definition, computed plainly in double.

#include "convert/methods/analytic.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <limits>
#include <numeric>
#include <vector>

#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/planned_by.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::neurons_of;
using testing::PlannedAlone;
using testing::set_option;

at::Tensor random_matrix(int64_t rows, int64_t columns, uint32_t stream) {
  return testing::random_normal({rows, columns}, 5, at::kFloat, stream);
}

/// Rows of unlike lengths, so that unit rows are others.
PlannedAlone random_layer(int64_t neurons, int64_t hidden, int64_t tokens, bool has_biases = false) {
  FeedForwardWeights ffn{random_matrix(neurons, hidden, 1) * random_matrix(neurons, 1, 2).exp(),
                         random_matrix(neurons, hidden, 3) * random_matrix(neurons, 1, 4).exp(),
                         random_matrix(hidden, neurons, 5)};
  if (has_biases) {
    ffn.gate_bias = random_matrix(neurons, 1, 6).flatten();
    ffn.up_bias = random_matrix(neurons, 1, 7).flatten();
  }
  // Tokens of a few subjects, so that neurons are active together.
  const at::Tensor subject = random_matrix(6, hidden, 8);
  at::Tensor x = random_matrix(tokens, hidden, 9);
  for (int64_t t = 0; t < tokens; ++t) x[t] += 2 * subject[t / 5 % 6];
  std::vector<int64_t> cu_seqlens{0};
  while (cu_seqlens.back() < tokens) cu_seqlens.push_back(std::min(tokens, cu_seqlens.back() + 7));
  return {ffn, x, cu_seqlens};
}

void choose_analytic(PlannedAlone& layer, int experts, int shared, int marks) {
  layer.spec.mutable_ffn()->set_method("analytic");
  layer.spec.mutable_ffn()->set_experts(experts);
  layer.spec.mutable_ffn()->set_shared_experts(shared);
  set_option(layer.spec, "marks", std::to_string(marks));
}

at::Tensor silu64(const at::Tensor& x) {
  return x / (1 + (-x).exp());
}

/// What unit rows give for x, in double; a bias is divided by the row's length too.
at::Tensor unit_products(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& bias) {
  const at::Tensor x64 = x.to(at::kDouble), rows64 = rows.to(at::kDouble);
  at::Tensor products = at::matmul(x64, rows64.t());
  if (bias.defined()) products = products + bias.to(at::kDouble);
  return products / rows64.norm(2, {1}, false).unsqueeze(0);
}

/// [tokens, neurons] of zeros and ones: a sort of each token's activations.
at::Tensor mark_matrix(const PlannedAlone& layer, int64_t marks) {
  const at::Tensor lengths = layer.x_TD.to(at::kDouble).norm(2, {1}, true);
  const at::Tensor h = (silu64(unit_products(layer.x_TD, layer.ffn.gate, layer.ffn.gate_bias) / lengths) *
                        (unit_products(layer.x_TD, layer.ffn.up, layer.ffn.up_bias) / lengths))
                           .abs();
  const at::Tensor order = h.argsort(1, /*descending=*/true).narrow(1, 0, marks);
  return at::zeros_like(h).scatter_(1, order, at::ones_like(h));
}

/// Neurons by falling number of marks, the lower first.
std::vector<int32_t> by_marks(const at::Tensor& marks_TF) {
  const at::Tensor counts = marks_TF.sum(0);
  std::vector<int32_t> order(counts.numel());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return counts[a].item<double>() > counts[b].item<double>(); });
  return order;
}

/// Least total cost of a square assignment: the Hungarian method with potentials, row by row.
double least_cost(const std::vector<std::vector<double>>& cost) {
  const size_t n = cost.size();
  std::vector<double> u(n + 1), v(n + 1);
  std::vector<size_t> row_of(n + 1, 0), way(n + 1, 0);
  for (size_t i = 1; i <= n; ++i) {
    row_of[0] = i;
    size_t j0 = 0;
    std::vector<double> least(n + 1, std::numeric_limits<double>::infinity());
    std::vector<bool> used(n + 1, false);
    do {
      used[j0] = true;
      const size_t i0 = row_of[j0];
      double delta = std::numeric_limits<double>::infinity();
      size_t j1 = 0;
      for (size_t j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const double reduced = cost[i0 - 1][j - 1] - u[i0] - v[j];
        if (reduced < least[j]) {
          least[j] = reduced;
          way[j] = j0;
        }
        if (least[j] < delta) {
          delta = least[j];
          j1 = j;
        }
      }
      for (size_t j = 0; j <= n; ++j) {
        if (used[j]) {
          u[row_of[j]] += delta;
          v[j] -= delta;
        } else {
          least[j] -= delta;
        }
      }
      j0 = j1;
    } while (row_of[j0] != 0);
    do {
      const size_t j1 = way[j0];
      row_of[j0] = row_of[j1];
      j0 = j1;
    } while (j0 != 0);
  }
  double total = 0;
  for (size_t j = 1; j <= n; ++j) total += cost[row_of[j] - 1][j - 1];
  return total;
}

struct Sizes {
  int64_t neurons, experts, shared, marks, tokens;
  bool has_biases;
};

class AnalyticTest : public ::testing::TestWithParam<Sizes> {
 protected:
  AnalyticTest() : layer_(random_layer(GetParam().neurons, 12, GetParam().tokens, GetParam().has_biases)) {
    choose_analytic(layer_, static_cast<int>(GetParam().experts), static_cast<int>(GetParam().shared),
                    static_cast<int>(GetParam().marks));
    marks_TF_ = mark_matrix(layer_, GetParam().marks);
    plan_ = layer_.plan();
  }
  /// Sum over tokens of |a - b| of columns.
  double distance(int32_t a, int32_t b) const {
    return (marks_TF_.select(1, a) - marks_TF_.select(1, b)).abs().sum().item<double>();
  }

  PlannedAlone layer_;
  at::Tensor marks_TF_;
  LayerPlan plan_;
};
INSTANTIATE_TEST_SUITE_P(Sizes, AnalyticTest,
                         ::testing::Values(Sizes{24, 3, 1, 4, 60, false}, Sizes{60, 5, 1, 10, 40, true},
                                           Sizes{96, 4, 0, 7, 200, false}, Sizes{120, 6, 2, 10, 30, true}));

TEST_P(AnalyticTest, MostMarkedNeuronsAreShared) {
  const int64_t shared = GetParam().neurons / (GetParam().experts + GetParam().shared) * GetParam().shared;
  std::vector<int32_t> expected = by_marks(marks_TF_);
  expected.resize(shared);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(neurons_of(plan_.shared), expected);
}

TEST_P(AnalyticTest, TheSplitCostsWhatAnExactAssignmentCosts) {
  const int64_t width = GetParam().neurons / (GetParam().experts + GetParam().shared);
  const std::vector<int32_t> order = by_marks(marks_TF_);
  const std::vector<int32_t> rest(order.begin() + width * GetParam().shared, order.end());
  double cost = 0;
  for (int64_t e = 0; e < GetParam().experts; ++e) {
    const std::vector<int32_t> neurons = neurons_of(plan_.experts[e]);
    ASSERT_EQ(static_cast<int64_t>(neurons.size()), width);
    for (const int32_t neuron : neurons) cost += distance(neuron, rest[e]);
  }
  std::vector<std::vector<double>> costs;  // a column for every place in every expert
  for (const int32_t neuron : rest) {
    std::vector<double>& row = costs.emplace_back();
    for (int64_t e = 0; e < GetParam().experts; ++e) row.insert(row.end(), width, distance(neuron, rest[e]));
  }
  EXPECT_EQ(cost, least_cost(costs)) << "both are whole numbers";
}

/// The router against its definition: the representative by distances to means, its score, and the penalised fit by
/// LAPACK.
TEST_P(AnalyticTest, RouterFitsTheScoresOfTheRepresentatives) {
  std::vector<int64_t> nearest;
  for (const ExpertPlan& expert : plan_.experts) {
    const std::vector<int32_t> neurons = neurons_of(expert);
    const at::Tensor columns = marks_TF_.index_select(1, at::tensor(neurons, at::kInt)), mean = columns.mean({1}, true);
    const at::Tensor distances = (columns - mean).abs().sum(0);
    int64_t best = 0;
    for (int64_t i = 1; i < distances.numel(); ++i) {
      if (distances[i].item<double>() < distances[best].item<double>() - 1e-9) best = i;
    }
    nearest.push_back(neurons[best]);
  }
  const at::Tensor taken = at::tensor(nearest, at::kLong);
  const auto rows = [&taken](const at::Tensor& all) { return all.defined() ? all.index_select(0, taken) : all; };
  const at::Tensor scores = (unit_products(layer_.x_TD, rows(layer_.ffn.up), rows(layer_.ffn.up_bias)) *
                             silu64(unit_products(layer_.x_TD, rows(layer_.ffn.gate), rows(layer_.ffn.gate_bias))))
                                .abs();
  const at::Tensor x = layer_.x_TD.to(at::kDouble), gram = at::matmul(x.t(), x);
  const at::Tensor penalised = gram + at::eye(x.size(1), at::kDouble) * (0.001 * gram.trace().item<double>() / 12);
  const at::Tensor expected = at::linalg_solve(penalised, at::matmul(x.t(), scores)).t();
  EXPECT_TRUE(testing::near(plan_.router_ED, expected, 1e-5));
}

TEST_P(AnalyticTest, RanksDoNotChangeABit) {
  for (const int ranks : {2, 4}) {
    const LayerPlan plan = layer_.plan(ranks);
    EXPECT_EQ(neurons_of(plan.shared), neurons_of(plan_.shared)) << ranks;
    for (size_t e = 0; e < plan.experts.size(); ++e)
      EXPECT_EQ(neurons_of(plan.experts[e]), neurons_of(plan_.experts[e])) << ranks << " " << e;
    EXPECT_TRUE(at::equal(plan.router_ED, plan_.router_ED)) << ranks;
  }
}

/// The size of LLaMA-2-7B at 8 experts and one shared one, with as many tokens as the paper has in two rows.
TEST(AnalyticSizeTest, NineThousandNeuronsTakeSeconds) {
  PlannedAlone layer = random_layer(10800, 64, 4096);
  choose_analytic(layer, 8, 1, 10);
  const auto start = std::chrono::steady_clock::now();
  const LayerPlan plan = layer.plan();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << "n = 9600 in 8 experts: " << seconds << " s\n";
  EXPECT_EQ(plan.experts[7].width(), 1200);
  EXPECT_LT(seconds, 60);
}

using AnalyticConversionTest = testing::ConversionTest;

TEST_F(AnalyticConversionTest, SharedAndRoutedPartsAtWeightOneAreTheDenseModel) {
  v1::ConvertSpec spec = testing::convert_spec("analytic", 5, 5, ids());
  spec.mutable_ffn()->set_shared_experts(3);
  testing::count_all_alike(spec);
  const nlohmann::json report = testing::convert(spec, 1, dense(), out());
  EXPECT_EQ(report["layers"][1]["shared_width"], 18);
  EXPECT_EQ(report["options"]["marks"], "10");
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  EXPECT_TRUE(testing::near(testing::logits_of(out(), batch), testing::logits_of(dense(), batch), 1e-5));
}

TEST_F(AnalyticConversionTest, RanksDoNotChangeAByte) {
  v1::ConvertSpec spec = testing::convert_spec("analytic", 4, 2, ids());
  spec.mutable_ffn()->set_shared_experts(2);
  spec.mutable_calibration()->set_tokens(250);
  expect_same_files_at_any_ranks(spec, {"model.safetensors", "conversion.safetensors"});
}

/// The published router, from the files, against its formula in double; native keeps it.
TEST_F(AnalyticConversionTest, ProductRouterIsThePublishedOne) {
  v1::ConvertSpec spec = testing::convert_spec("analytic", 4, 2, ids());
  spec.mutable_router()->set_gate("product");
  const nlohmann::json report = testing::convert(spec, 1, dense(), out());
  EXPECT_EQ(report["router_gate"], "product");
  const ModelDirectory made(out());
  EXPECT_EQ(made.config().moe->router, "product");
  for (const int64_t layer : {0, 1}) {
    const std::string mlp = concat("model.layers.", layer, ".mlp.");
    const at::Tensor u = made.tensor(mlp + "router.weight").to(at::kDouble),
                     g = made.tensor(mlp + "router.gate.weight").to(at::kDouble);
    EXPECT_TRUE(testing::near(u.norm(2, {1}), at::ones({4}, at::kDouble), 1e-6));
    EXPECT_TRUE(testing::near(g.norm(2, {1}), at::ones({4}, at::kDouble), 1e-6));
    // Both are of one neuron of the expert.
    for (int64_t e = 0; e < 4; ++e) {
      const auto unit = [&](const char* matrix) {
        const at::Tensor rows = made.tensor(concat(mlp, "experts.", e, ".", matrix, ".weight")).to(at::kDouble);
        return rows / rows.norm(2, {1}, true);
      };
      const at::Tensor apart = (unit("up_proj") - u[e]).abs().amax(1) + (unit("gate_proj") - g[e]).abs().amax(1);
      EXPECT_LT(apart.min().item<double>(), 1e-6) << "expert " << e;
    }
  }
  EXPECT_GT(report["layers"][0]["router_logit_deviation"].get<double>(), 0);
}

TEST_F(AnalyticConversionTest, Refusals) {
  v1::ConvertSpec spec = testing::convert_spec("analytic", 4, 2, ids());
  testing::write_dense_model(folder_ / "phi", testing::tiny_config("phi"), 11);
  EXPECT_THAT(refusal(spec, folder_ / "phi"),
              AllOf(HasSubstr("analytic does not apply"), HasSubstr("phi has no gate")));
  set_option(spec, "marks", "49");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.options.marks 49"), HasSubstr("48 neurons")));
  set_option(spec, "marks", "10");
  spec.mutable_router()->set_gate("mlp");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("router.gate is 'mlp'"), HasSubstr("use linear or product")));
}

}  // namespace
}  // namespace moe
