// The MoE layer against a loop over tokens and experts that autograd differentiates by itself, in float64.
#include "model/moe/moe_layer.h"

#include <gtest/gtest.h>

#include "model/moe/slot_order.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

constexpr int64_t kHidden = 24;
constexpr double kTolerance = 1e-10;

struct Case {
  const char* name;
  int64_t tokens, experts, top_k, width, shared_width;
  double first_bias = 0;  ///< added to the logit of expert 0: -100 leaves it without tokens, +100 sends it all
  bool is_gated = true, has_biases = false;
  TopkNorm norm = TopkNorm::kRenorm;
  RouterScore score = RouterScore::kSoftmax;
  SharedGate shared_gate = SharedGate::kNone;
  int64_t gate_rows = 0;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

/// W x + b, without b where it is undefined.
at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor y = at::matmul(x, weight.t());
  return bias.defined() ? y + bias : y;
}

at::Tensor naive_ffn(const at::Tensor& x, const FeedForwardWeights& w) {
  const at::Tensor up = affine(x, w.up, w.up_bias);
  if (!w.gate.defined()) return at::matmul(at::gelu(up, "tanh"), w.down.t());
  const at::Tensor g = affine(x, w.gate, w.gate_bias);
  return at::matmul(g * at::sigmoid(g) * up, w.down.t());
}

/// Expert e of a stack.
FeedForwardWeights expert(const MoeWeights& weights, bool is_gated, int64_t e) {
  const int64_t width = weights.down.size(2);
  FeedForwardWeights one;
  one.down = weights.down[e];
  const auto part = [&](const at::Tensor& stack, int64_t first) {
    return stack.defined() ? stack[e].slice(0, first, first + width) : at::Tensor();
  };
  if (is_gated) one.gate = part(weights.gate_up, 0);
  if (is_gated) one.gate_bias = part(weights.gate_up_bias, 0);
  one.up = part(weights.gate_up, is_gated ? width : 0);
  one.up_bias = part(weights.gate_up_bias, is_gated ? width : 0);
  return one;
}

/// Of one token: one shared expert after the other, each an FFN of its own.
at::Tensor naive_shared(const at::Tensor& x, const MoeWeights& weights, const SharedGateOptions& options) {
  const FeedForwardWeights& all = *weights.shared;
  if (options.gate == SharedGate::kNone) return naive_ffn(x, all);
  const at::Tensor z = at::matmul(weights.shared_gate_RD, x);
  const at::Tensor w = options.gate == SharedGate::kSoftmax ? z.exp() / z.exp().sum() : 1 / (1 + (-z).exp());
  const int64_t width = all.down.size(1) / z.size(0);
  at::Tensor y = at::zeros({kHidden}, at::kDouble);
  for (int64_t r = 0; r < z.size(0); ++r) {
    const auto part = [&](const at::Tensor& of) {
      return of.defined() ? of.slice(0, r * width, (r + 1) * width) : at::Tensor();
    };
    const FeedForwardWeights one{part(all.gate), part(all.up), all.down.slice(1, r * width, (r + 1) * width),
                                 part(all.gate_bias), part(all.up_bias)};
    y = y + options.scale * w[r] * naive_ffn(x, one);
  }
  return y;
}

/// y of every token, one (token, slot) at a time.
at::Tensor naive_moe(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x) {
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < x.size(0); ++t) {
    const at::Tensor z = at::matmul(weights.router.weight_ED, x[t]);
    const at::Tensor p = options.router.score == RouterScore::kSoftmax ? at::softmax(z, 0) : 1 / (1 + (-z).exp());
    const at::Tensor ids =
        std::get<1>(at::sort(p.detach(), /*stable=*/true, 0, /*descending=*/true)).narrow(0, 0, options.router.top_k);
    const at::Tensor chosen = p.index_select(0, ids);
    at::Tensor w = chosen / chosen.detach();
    if (options.router.topk_norm == TopkNorm::kRaw) w = chosen;
    if (options.router.topk_norm == TopkNorm::kRenorm) w = chosen / chosen.sum();
    if (options.router.topk_norm == TopkNorm::kUnit) w = at::ones_like(chosen);
    if (options.router.topk_norm == TopkNorm::kOnePlus) w = 1 + weights.router.gain_E.index_select(0, ids) * chosen;
    at::Tensor y = at::zeros({kHidden}, at::kDouble);
    for (int64_t k = 0; k < options.router.top_k; ++k) {
      const int64_t e = ids[k].item<int64_t>();
      y = y + options.output_scale * w[k] * naive_ffn(x[t], expert(weights, options.is_gated, e));
    }
    if (weights.shared) y = y + naive_shared(x[t], weights, options.shared_gate);
    if (weights.output_bias.defined()) y = y + weights.output_bias;
    rows.push_back(y);
  }
  return rows.empty() ? x * 0 : at::stack(rows);
}

class MoeLayerTest : public ::testing::TestWithParam<Case> {
 protected:
  static at::Tensor leaf(const at::Tensor& value) { return value.detach().clone().requires_grad_(true); }
  static MoeWeights random_weights(const Case& c) {
    MoeWeights weights;
    at::Tensor router = random_normal({c.experts, kHidden}, 1) * 0.3;
    router.select(1, 0).zero_();
    router[0][0].fill_(c.first_bias);
    weights.router.weight_ED = leaf(router);
    if (c.norm == TopkNorm::kOnePlus) weights.router.gain_E = leaf(random_normal({c.experts}, 13));
    const int64_t rows = c.is_gated ? 2 * c.width : c.width;
    weights.gate_up = leaf(random_normal({c.experts, rows, kHidden}, 2) * 0.2);
    weights.down = leaf(random_normal({c.experts, kHidden, c.width}, 3) * 0.2);
    if (c.shared_width > 0) {
      weights.shared = FeedForwardWeights{leaf(random_normal({c.shared_width, kHidden}, 4) * 0.2),
                                          leaf(random_normal({c.shared_width, kHidden}, 5) * 0.2),
                                          leaf(random_normal({kHidden, c.shared_width}, 6) * 0.2)};
      if (!c.is_gated) weights.shared->gate = at::Tensor();
      if (c.gate_rows > 0) weights.shared_gate_RD = leaf(random_normal({c.gate_rows, kHidden}, 14) * 0.3);
    }
    if (!c.has_biases) return weights;
    weights.gate_up_bias = leaf(random_normal({c.experts, rows}, 9));
    weights.output_bias = leaf(random_normal({kHidden}, 10));
    if (!weights.shared) return weights;
    weights.shared->up_bias = leaf(random_normal({c.shared_width}, 11));
    if (c.is_gated) weights.shared->gate_bias = leaf(random_normal({c.shared_width}, 12));
    return weights;
  }
  static std::vector<at::Tensor> leaves(const MoeWeights& weights) {
    std::vector<at::Tensor> all{weights.router.weight_ED, weights.gate_up,     weights.down,
                                weights.gate_up_bias,     weights.output_bias, weights.router.gain_E,
                                weights.shared_gate_RD};
    if (weights.shared) {
      const FeedForwardWeights& shared = *weights.shared;
      all.insert(all.end(), {shared.gate, shared.up, shared.down, shared.gate_bias, shared.up_bias});
    }
    std::erase_if(all, [](const at::Tensor& tensor) { return !tensor.defined(); });
    return all;
  }
  /// Column 0 is 1: the router's first column is a bias.
  static at::Tensor tokens(const Case& c) {
    at::Tensor x = random_normal({c.tokens, kHidden}, 7);
    x.select(1, 0).fill_(1);
    return leaf(x);
  }
};

INSTANTIATE_TEST_SUITE_P(
    , MoeLayerTest,
    ::testing::Values(
        Case{"top2_of_8", 40, 8, 2, 16, 0}, Case{"width_43", 40, 4, 2, 43, 0}, Case{"shared", 40, 7, 1, 16, 11},
        Case{"all_of_3", 10, 3, 3, 8, 0}, Case{"one_expert_without_tokens", 40, 4, 2, 43, 0, -100},
        Case{"all_on_one_expert", 40, 4, 1, 43, 0, 100}, Case{"one_token", 1, 4, 2, 43, 8},
        Case{"no_tokens", 0, 4, 2, 43, 8}, Case{"one_expert", 9, 1, 1, 16, 0},
        Case{"raw", 40, 8, 3, 16, 0, 0, true, false, TopkNorm::kRaw},
        Case{"unit", 40, 8, 3, 16, 0, 0, true, false, TopkNorm::kUnit},
        Case{"one_plus", 40, 8, 3, 16, 0, 0, true, false, TopkNorm::kOnePlus},
        Case{"sigmoid", 40, 8, 3, 16, 5, 0, true, false, TopkNorm::kRenorm, RouterScore::kSigmoid},
        Case{"sigmoid_raw", 40, 8, 3, 16, 0, 0, true, false, TopkNorm::kRaw, RouterScore::kSigmoid},
        Case{"sigmoid_top1", 40, 8, 1, 16, 0, 0, true, false, TopkNorm::kStraightThrough, RouterScore::kSigmoid},
        Case{"sigmoid_one_plus", 40, 8, 2, 16, 0, 0, true, false, TopkNorm::kOnePlus, RouterScore::kSigmoid},
        Case{"sigmoid_no_tokens", 0, 8, 2, 16, 0, 0, true, false, TopkNorm::kRaw, RouterScore::kSigmoid},
        Case{"biases", 40, 4, 2, 43, 0, 0, true, true}, Case{"biases_shared", 40, 4, 2, 16, 11, 0, true, true},
        Case{"no_gate", 40, 4, 2, 43, 0, 0, false, false}, Case{"no_gate_biases", 40, 4, 2, 16, 11, 0, false, true},
        Case{"no_gate_biases_no_tokens", 0, 4, 2, 16, 11, 0, false, true},
        Case{"biases_one_without_tokens", 40, 4, 2, 16, 0, -100, false, true},
        Case{"shared_softmax", 40, 4, 2, 16, 12, 0, true, false, TopkNorm::kRenorm, RouterScore::kSoftmax,
             SharedGate::kSoftmax, 3},
        Case{"shared_sigmoid", 40, 4, 2, 16, 11, 0, true, false, TopkNorm::kRenorm, RouterScore::kSoftmax,
             SharedGate::kSigmoid, 1},
        Case{"shared_softmax_no_gate_biases", 40, 4, 2, 16, 12, 0, false, true, TopkNorm::kRenorm,
             RouterScore::kSoftmax, SharedGate::kSoftmax, 2},
        Case{"shared_softmax_no_tokens", 0, 4, 2, 16, 12, 0, true, true, TopkNorm::kRenorm, RouterScore::kSoftmax,
             SharedGate::kSoftmax, 2}),
    [](const auto& test) { return test.param.name; });

TEST_P(MoeLayerTest, ValueAndGradientsEqualANaiveLoop) {
  const Case& c = GetParam();
  const MoeOptions options{c.experts,
                           {c.top_k, c.top_k == 1 ? TopkNorm::kStraightThrough : c.norm, c.score},
                           1.75,
                           c.is_gated,
                           {c.shared_gate, 2.5}};
  const MoeWeights ours = random_weights(c), theirs = random_weights(c);
  const at::Tensor x_ours = tokens(c), x_theirs = tokens(c), dy = random_normal({c.tokens, kHidden}, 8);
  LocalDispatcher dispatcher;
  const MoeOutput output = moe_layer(ours, options, x_ours, dispatcher, 0);
  const at::Tensor expected = naive_moe(theirs, options, x_theirs);
  EXPECT_TRUE(near(output.y_TD, expected, kTolerance));
  EXPECT_EQ(output.stats.tokens_per_expert_E.sum().item<int64_t>(), c.tokens * c.top_k);
  if (c.first_bias < 0) {
    EXPECT_EQ(output.stats.tokens_per_expert_E[0].item<int64_t>(), 0);
  }
  if (c.first_bias > 0) {
    EXPECT_EQ(output.stats.tokens_per_expert_E[0].item<int64_t>(), c.tokens);
  }
  EXPECT_NEAR(output.stats.probability_sum_E.sum().item<double>(), static_cast<double>(c.tokens), 1e-9);

  output.y_TD.backward(dy);
  if (c.tokens > 0) expected.backward(dy);
  const auto gradient = [](const at::Tensor& of) { return of.grad().defined() ? of.grad() : at::zeros_like(of); };
  EXPECT_TRUE(near(gradient(x_ours), gradient(x_theirs), kTolerance)) << "x";
  const std::vector<at::Tensor> a = leaves(ours), b = leaves(theirs);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(near(gradient(a[i]), gradient(b[i]), kTolerance)) << "parameter " << i;
  if (c.top_k < c.experts && c.tokens > 1 && c.first_bias <= 0 && c.norm != TopkNorm::kUnit) {
    EXPECT_GT(testing::max_abs(ours.router.weight_ED.grad()), 1e-4);
  }
}

// A token's own result must not depend on the tokens beside it: the basis of equal bits across layouts of ranks.
TEST(MoeLayerBitsTest, TokensDoNotDependOnTheirNeighbours) {
  const int64_t tokens = 64;
  const at::Tensor x = random_normal({tokens, 32}, 1, at::kFloat);
  for (const int64_t width : {16, 43, 64}) {
    MoeWeights weights;
    weights.router.weight_ED = random_normal({8, 32}, 2, at::kFloat);
    weights.gate_up = random_normal({8, 2 * width, 32}, 3, at::kFloat);
    weights.down = random_normal({8, 32, width}, 4, at::kFloat);
    for (const RouterOptions& router : {RouterOptions{2}, RouterOptions{2, TopkNorm::kRenorm, RouterScore::kSigmoid},
                                        RouterOptions{2, TopkNorm::kRaw, RouterScore::kSigmoid}}) {
      const MoeOptions options{8, router, 4};
      LocalDispatcher dispatcher;
      const at::Tensor all = moe_layer(weights, options, x, dispatcher, 0).y_TD;
      int64_t differ = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        differ += testing::rows_that_differ(moe_layer(weights, options, x.narrow(0, t, 1), dispatcher, 0).y_TD,
                                            all.narrow(0, t, 1));
      }
      EXPECT_EQ(differ, 0) << "of " << tokens << " tokens, expert width " << width;
    }
  }
}

TEST(SlotOrderTest, RowsStandByExpertThenToken) {
  const at::Tensor ids =
      at::tensor({int64_t{2}, int64_t{0}, int64_t{0}, int64_t{3}, int64_t{2}, int64_t{1}}).view({3, 2});
  const SlotOrder all = sort_slots(ids, {0, 4}, 6);
  EXPECT_TRUE(all.rows_per_expert.equal(at::tensor({2, 1, 2, 1}, at::kLong))) << all.rows_per_expert;
  EXPECT_TRUE(
      all.row_tokens_R.equal(at::tensor({int64_t{0}, int64_t{1}, int64_t{2}, int64_t{0}, int64_t{2}, int64_t{1}})));
  const SlotOrder part = sort_slots(ids, {1, 2}, 3);
  EXPECT_TRUE(part.row_tokens_R.equal(at::tensor({2, 0, 2}, at::kLong))) << part.row_tokens_R;
  EXPECT_TRUE(part.rows_per_expert.equal(at::tensor({1, 2}, at::kLong))) << part.rows_per_expert;
  EXPECT_TRUE(part.slot_rows_TK.equal(
      at::tensor({int64_t{1}, int64_t{-1}, int64_t{-1}, int64_t{-1}, int64_t{2}, int64_t{0}}).view({3, 2})));
}

}  // namespace
}  // namespace moe
