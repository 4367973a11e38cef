// Attention as experts against dense attention with a mask, written here with plain products and without any code of
// what is tested, in float64: LLaMA-MoE v2, section 2.2 ("equivalent oracle") and section 9, C1 to C5.
#include "model/attention_experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "common/error.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

// The tiny shape of the specification.
constexpr int64_t kHidden = 64, kHeads = 16, kKvHeads = 4, kHeadDim = 4;

ModelConfig shape_of_spec() {
  nlohmann::json json = testing::tiny_json();
  json.update({{"hidden_size", kHidden},
               {"intermediate_size", 128},
               {"num_attention_heads", kHeads},
               {"num_key_value_heads", kKvHeads},
               {"head_dim", kHeadDim},
               {"vocab_size", 128}});
  return parse_model_config(json.dump(), "tiny config of the specification");
}

at::Tensor leaf(const at::Tensor& values) {
  return values.detach().clone().requires_grad_(true);
}

/// Experts of a layer, in one tensor each.
struct Problem {
  int64_t experts, top_k, always_on;
  double scale = 1;
  bool sees_all = false;
  at::Tensor router{};              ///< [A - always_on, D]
  at::Tensor qkv{}, o{};            ///< [A, (g + 2) d, D], [A, D, g d]
  at::Tensor qkv_bias{}, o_bias{};  ///< [A, (g + 2) d], [D]

  int64_t query_heads() const { return kHeads / experts; }
  std::vector<at::Tensor> weights() const { return {router, qkv, o, qkv_bias, o_bias}; }
};

Problem random_problem(int64_t split_ratio, int64_t top_k, int64_t always_on, uint64_t seed) {
  const int64_t experts = split_ratio * kKvHeads, rows = (kHeads / experts + 2) * kHeadDim;
  Problem p{.experts = experts, .top_k = top_k, .always_on = always_on, .scale = 1.7};
  p.router = leaf(random_normal({experts - always_on, kHidden}, seed) * 0.5);
  p.qkv = leaf(random_normal({experts, rows, kHidden}, seed + 1) * 0.3);
  p.o = leaf(random_normal({experts, kHidden, kHeads / experts * kHeadDim}, seed + 2) * 0.3);
  p.qkv_bias = leaf(random_normal({experts, rows}, seed + 3) * 0.3);
  p.o_bias = leaf(random_normal({kHidden}, seed + 4));
  return p;
}

/// Pairs (j, j + d/2) turned by t theta^(-2j/d). x [S, heads, d].
at::Tensor turned(const at::Tensor& x) {
  const int64_t half = kHeadDim / 2;
  const at::Tensor rates = at::pow(10000.0, at::arange(half, at::kDouble) * (-2.0 / kHeadDim));
  // In float32, as the model keeps its angles.
  const at::Tensor angles =
      (at::arange(x.size(0), at::kDouble).unsqueeze(1) * rates.to(at::kFloat)).to(at::kFloat).unsqueeze(1);
  const at::Tensor cos = angles.cos().to(at::kDouble), sin = angles.sin().to(at::kDouble);
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

/// softmax(q k^T / sqrt(d)) v where visible. q [S, heads, d], k and v [S, d], visible [S, S] -> [S, heads * d].
at::Tensor attended(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& visible) {
  const at::Tensor scores = at::matmul(q.transpose(0, 1), k.t()) / std::sqrt(double{kHeadDim});
  const at::Tensor weights =
      scores.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity()).softmax(-1);
  return at::matmul(weights, v).transpose(0, 1).reshape({q.size(0), q.size(1) * kHeadDim});
}

at::Tensor all_before(int64_t tokens) {
  const at::Tensor order = at::arange(tokens, at::kLong);
  return order.unsqueeze(1).gt(order.unsqueeze(0));
}

at::Tensor oneself(int64_t tokens) {
  return at::eye(tokens, at::kLong).to(at::kBool);
}

/// Causal attention of one expert over the keys that `seen_S` allows, and its own. x [S, D] -> [S, D].
at::Tensor masked_attention(const Problem& p, int64_t expert, const at::Tensor& x, const at::Tensor& seen_S) {
  const int64_t tokens = x.size(0), g = p.query_heads();
  const at::Tensor heads = (at::matmul(x, p.qkv[expert].t()) + p.qkv_bias[expert]).view({tokens, g + 2, kHeadDim});
  const at::Tensor q = turned(heads.narrow(1, 0, g)), k = turned(heads.narrow(1, g, 1)).select(1, 0),
                   v = heads.select(1, g + 1);
  const at::Tensor visible = all_before(tokens).logical_and(seen_S.unsqueeze(0)).logical_or(oneself(tokens));
  return at::matmul(attended(q, k, v, visible), p.o[expert].t());
}

/// Grouped-query attention of all heads.
struct DenseAttention {
  at::Tensor q, k, v, o;  ///< [heads * d, D], [kv heads * d, D] twice, [D, heads * d]
};

at::Tensor dense_attention(const DenseAttention& weights, const at::Tensor& x_TD,
                           const std::vector<int64_t>& cu_seqlens) {
  std::vector<at::Tensor> parts;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const at::Tensor x = x_TD.slice(0, cu_seqlens[s], cu_seqlens[s + 1]);
    const int64_t tokens = x.size(0), group = kHeads / kKvHeads;
    const auto heads = [&](const at::Tensor& weight) {
      return at::matmul(x, weight.t()).view({tokens, weight.size(0) / kHeadDim, kHeadDim});
    };
    const at::Tensor q = turned(heads(weights.q)), k = turned(heads(weights.k)), v = heads(weights.v);
    const at::Tensor visible = all_before(tokens).logical_or(oneself(tokens));
    std::vector<at::Tensor> of_heads;
    for (int64_t kv = 0; kv < kKvHeads; ++kv)
      of_heads.push_back(attended(q.narrow(1, kv * group, group), k.select(1, kv), v.select(1, kv), visible));
    parts.push_back(at::matmul(at::cat(of_heads, 1), weights.o.t()));
  }
  return at::cat(parts);
}

struct Chosen {
  at::Tensor weights_SA, mask_SA;
};

Chosen choice_of(const Problem& p, const at::Tensor& x) {
  const at::Tensor scores = at::matmul(x, p.router.t()).softmax(-1);
  const auto [best, ids] = scores.topk(p.top_k, 1);
  const at::Tensor routed = at::zeros_like(scores).scatter(1, ids, best / best.sum(1, true));
  const at::Tensor always = at::ones({x.size(0), p.always_on}, at::kDouble);
  return {at::cat({always, p.scale * routed}, 1), at::cat({always, at::zeros_like(scores).scatter(1, ids, 1)}, 1)};
}

at::Tensor oracle(const Problem& p, const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens) {
  std::vector<at::Tensor> parts;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const at::Tensor x = x_TD.slice(0, cu_seqlens[s], cu_seqlens[s + 1]);
    const Chosen chosen = choice_of(p, x);
    at::Tensor y = p.o_bias.expand_as(x);
    for (int64_t e = 0; e < p.experts; ++e) {
      const at::Tensor asks = chosen.mask_SA.select(1, e).to(at::kBool);
      const at::Tensor seen = p.sees_all ? at::ones_like(asks) : asks;
      y = y + chosen.weights_SA.select(1, e).unsqueeze(1) * masked_attention(p, e, x, seen);
    }
    parts.push_back(y);
  }
  return at::cat(parts);
}

MoeAttention as_tested(const Problem& p, TopkNorm norm = TopkNorm::kRenorm) {
  AttentionExpertWeights weights;
  weights.router.weight_ED = p.router;
  weights.qkv = p.qkv;
  weights.o = p.o;
  weights.qkv_bias = p.qkv_bias;
  weights.o_bias = p.o_bias;
  return {weights,
          {.num_experts = p.experts,
           .always_on = p.always_on,
           .query_heads = p.query_heads(),
           .kv_heads = 1,
           .router = {.top_k = p.top_k, .topk_norm = norm},
           .output_scale = p.scale,
           .sees_all_tokens = p.sees_all}};
}

AttentionExpertsOutput run(const MoeAttention& attention, const at::Tensor& x_TD,
                           const std::vector<int64_t>& cu_seqlens) {
  const ModelConfig config = shape_of_spec();
  const RopeAngles rope = RopeTable(config, at::kDouble).angles(cu_seqlens);
  LocalDispatcher dispatcher;
  const LayerContext context{config, rope, cu_seqlens, dispatcher};
  return attention_experts(attention, 0, x_TD, context);
}

std::vector<at::Tensor> gradients_of(const at::Tensor& y, const Problem& p, const at::Tensor& x,
                                     const at::Tensor& direction) {
  std::vector<at::Tensor> of{x};
  for (const at::Tensor& weight : p.weights()) of.push_back(weight);
  for (at::Tensor& each : of) each.mutable_grad() = at::Tensor();
  (y * direction).sum().backward();
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& each : of) gradients.push_back(each.grad().clone());
  return gradients;
}

/// Of grouped-query heads: split ratio, and how each is made.
class AttentionExpertsTest : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(SplitRatios, AttentionExpertsTest, ::testing::Values(1, 2, 4),
                         [](const auto& test) { return "Ratio" + std::to_string(test.param); });

// C1: experts that hold slices of one attention, a key-value head copied for each slice, all chosen.
TEST_P(AttentionExpertsTest, AllChosenWithEvenWeightsAndAScaleOfTheirNumberIsDenseAttention) {
  const int64_t ratio = GetParam(), experts = ratio * kKvHeads, g = kHeads / experts;
  const DenseAttention dense{
      random_normal({kHeads * kHeadDim, kHidden}, 1) * 0.3, random_normal({kKvHeads * kHeadDim, kHidden}, 2) * 0.3,
      random_normal({kKvHeads * kHeadDim, kHidden}, 3) * 0.3, random_normal({kHidden, kHeads * kHeadDim}, 4) * 0.3};
  Problem p = random_problem(ratio, experts, 0, 50);
  const at::NoGradGuard no_grad;
  for (int64_t e = 0; e < experts; ++e) {
    const auto rows = [&](const at::Tensor& weight, int64_t head, int64_t heads) {
      return weight.narrow(0, head * kHeadDim, heads * kHeadDim);
    };
    p.qkv[e].copy_(at::cat({rows(dense.q, e * g, g), rows(dense.k, e / ratio, 1), rows(dense.v, e / ratio, 1)}));
    p.o[e].copy_(dense.o.narrow(1, e * g * kHeadDim, g * kHeadDim));
  }
  p.qkv_bias.zero_();
  p.o_bias.zero_();
  p.router.zero_();
  p.scale = static_cast<double>(experts);
  const std::vector<int64_t> cu_seqlens{0, 11, 12, 29};
  const at::Tensor x = random_normal({29, kHidden}, 5);
  const at::Tensor expected = dense_attention(dense, x, cu_seqlens);
  EXPECT_TRUE(near(run(as_tested(p), x, cu_seqlens).y_TD, expected, 1e-12));
  EXPECT_TRUE(near(oracle(p, x, cu_seqlens), expected, 1e-12)) << "the oracle itself";
  p.scale = 1;
  EXPECT_TRUE(near(run(as_tested(p, TopkNorm::kUnit), x, cu_seqlens).y_TD, expected, 1e-12)) << "unit weights";
  p.sees_all = true;
  EXPECT_TRUE(near(run(as_tested(p, TopkNorm::kUnit), x, cu_seqlens).y_TD, expected, 1e-12)) << "keys of all tokens";
}

// C2, with gradients: of the inputs, the router and every projection, against those of the oracle.
TEST_P(AttentionExpertsTest, SparseIsMaskedDenseAndSoAreItsGradients) {
  const std::vector<int64_t> cu_seqlens{0, 9, 9, 10, 33};  // one without tokens, one with a single one
  for (const int64_t always_on : {0, 1}) {
    for (const bool sees_all : {false, true}) {
      for (const int64_t top_k : {1, 3}) {
        SCOPED_TRACE(concat("always on ", always_on, ", sees all ", sees_all, ", top ", top_k));
        Problem p = random_problem(GetParam(), top_k, always_on, 100);
        p.sees_all = sees_all;
        const at::Tensor x = leaf(random_normal({33, kHidden}, 7)), direction = random_normal({33, kHidden}, 8);
        const at::Tensor expected = oracle(p, x, cu_seqlens), actual = run(as_tested(p), x, cu_seqlens).y_TD;
        EXPECT_TRUE(near(actual, expected, 1e-12));
        const std::vector<at::Tensor> wanted = gradients_of(expected, p, x, direction),
                                      found = gradients_of(actual, p, x, direction);
        const char* const names[] = {"x", "router", "qkv", "o", "qkv bias", "o bias"};
        for (size_t i = 0; i < wanted.size(); ++i) {
          if (std::string(names[i]) == "router" && top_k == 1) {
            // Weights of one chosen expert are 1 whatever the router says (D6).
            EXPECT_LT(testing::max_abs(found[i]), 1e-12);
          } else {
            EXPECT_TRUE(near(found[i], wanted[i], 1e-10)) << names[i];
          }
        }
      }
    }
  }
}

// C3.
TEST_P(AttentionExpertsTest, AChangedTokenIsSeenByNoEarlierOneAndOnlyThroughItsExperts) {
  constexpr int64_t kTokens = 60, kChanged = 10;
  const std::vector<int64_t> cu_seqlens{0, kTokens};
  const Problem p = random_problem(GetParam(), 2, 0, 200);
  const at::NoGradGuard no_grad;
  const at::Tensor x = random_normal({kTokens, kHidden}, 9);
  at::Tensor other = x.clone();
  other[kChanged] += 0.05 * random_normal({kHidden}, 10);
  const at::Tensor before = choice_of(p, x).mask_SA, after = choice_of(p, other).mask_SA;
  const at::Tensor y = run(as_tested(p), x, cu_seqlens).y_TD, changed = run(as_tested(p), other, cu_seqlens).y_TD;
  const at::Tensor touched_A = before[kChanged].logical_or(after[kChanged]);
  int64_t untouched = 0, differ = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    const bool may_differ = t >= kChanged && (t == kChanged || before[t].logical_and(touched_A).any().item<bool>());
    const bool differs = !at::equal(y[t], changed[t]);
    EXPECT_TRUE(may_differ || !differs) << "token " << t;
    untouched += t > kChanged && !may_differ;
    differ += t > kChanged && differs;
  }
  EXPECT_GT(untouched, 0) << "no later token without the changed one's experts: the test shows nothing";
  EXPECT_GT(differ, 0);
}

TEST(AttentionExpertsStatsTest, TheRouterCountsTheExpertsThatMayBeChosen) {
  const Problem p = random_problem(2, 2, 3, 300);
  const at::NoGradGuard no_grad;
  const at::Tensor x = random_normal({40, kHidden}, 11);
  const RouterStats stats = run(as_tested(p), x, {0, 40}).stats;
  const at::Tensor mask_SA = choice_of(p, x).mask_SA.narrow(1, 3, 5);
  EXPECT_TRUE(at::equal(stats.tokens_per_expert_E, mask_SA.sum(0).to(at::kLong)));
  EXPECT_TRUE(near(stats.probability_sum_E, at::matmul(x, p.router.t()).softmax(-1).sum(0), 1e-12));
}

// An expert with several key-value heads, as fewer experts than key-value heads have: pairs of heads of two experts.
TEST(AttentionExpertsHeadsTest, ExpertsMayHaveSeveralKeyValueHeads) {
  const at::NoGradGuard no_grad;
  const Problem four = random_problem(1, 4, 0, 400);
  Problem two = four;
  const auto joined = [&](int64_t first_row, int64_t rows) {
    return four.qkv.narrow(1, first_row * kHeadDim, rows * kHeadDim).reshape({2, 2 * rows * kHeadDim, kHidden});
  };
  const auto joined_bias = [&](int64_t first_row, int64_t rows) {
    return four.qkv_bias.narrow(1, first_row * kHeadDim, rows * kHeadDim).reshape({2, 2 * rows * kHeadDim});
  };
  two.qkv = at::cat({joined(0, 4), joined(4, 1), joined(5, 1)}, 1);
  two.qkv_bias = at::cat({joined_bias(0, 4), joined_bias(4, 1), joined_bias(5, 1)}, 1);
  two.o = four.o.view({2, 2, kHidden, 16}).transpose(1, 2).reshape({2, kHidden, 32});
  two.router = four.router.narrow(0, 0, 2);
  two.experts = two.top_k = 2;
  MoeAttention of_two = as_tested(two, TopkNorm::kUnit);
  of_two.options.kv_heads = 2;
  const at::Tensor x = random_normal({20, kHidden}, 12);
  EXPECT_TRUE(near(run(of_two, x, {0, 20}).y_TD, run(as_tested(four, TopkNorm::kUnit), x, {0, 20}).y_TD, 1e-12));
}

}  // namespace
}  // namespace moe
