// The MoE layer against a naive loop over tokens and experts, in float64: values and all gradients.

#include <gtest/gtest.h>

#include <iostream>
#include <vector>

#include "model/moe/aux_loss.h"
#include "model/moe/moe_layer.h"
#include "testing/compare.h"

namespace moe {
namespace {

struct Case {
  const char* name;
  int64_t tokens, experts, top_k, width;
  double router_bias;   ///< added to expert 0's logits through a constant feature: large, it takes all tokens
  bool dead_expert;     ///< the last expert never gets a token
};

class MoeGradientsTest : public ::testing::TestWithParam<Case> {};

at::Tensor leaf(std::vector<int64_t> shape) { return at::randn(shape, at::kDouble).mul_(0.5).set_requires_grad(true); }

/// One token and one expert at a time, in plain tensor operations.
at::Tensor naive_moe(const MoeWeights& w, const MoeOptions& options, const at::Tensor& x) {
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < x.size(0); ++t) {
    const at::Tensor logits = at::mv(w.router, x[t]);
    const auto [values, ids] = at::topk(logits, options.top_k);
    const at::Tensor weights = at::softmax(values, 0);
    at::Tensor y = at::zeros({x.size(1)}, at::kDouble);
    for (int64_t k = 0; k < options.top_k; ++k) {
      const int64_t e = ids[k].item<int64_t>();
      const at::Tensor gate_up = at::mv(w.gate_up[e], x[t]);
      const int64_t width = gate_up.size(0) / 2;
      const at::Tensor h = at::silu(gate_up.slice(0, 0, width)) * gate_up.slice(0, width);
      y = y + weights[k] * at::mv(w.down[e], h);
    }
    rows.push_back(y * options.output_scale);
  }
  return rows.empty() ? x * 0 : at::stack(rows);
}

TEST_P(MoeGradientsTest, EqualAutogradOfANaiveLoop) {
  const Case& c = GetParam();
  at::manual_seed(11);
  constexpr int64_t kHidden = 24;
  MoeWeights weights;
  at::Tensor router = at::randn({c.experts, kHidden}, at::kDouble);
  router[0][0] += c.router_bias;
  if (c.dead_expert) router[c.experts - 1][0] -= 1000;
  weights.router = router.set_requires_grad(true);
  weights.gate_up = leaf({c.experts, 2 * c.width, kHidden});
  weights.down = leaf({c.experts, kHidden, c.width});
  at::Tensor x = at::randn({c.tokens, kHidden}, at::kDouble);
  if (c.tokens > 0) x.select(1, 0).fill_(1);
  x.set_requires_grad(true);
  const MoeOptions options{c.experts, c.top_k, 1.7, TopkNorm::kRenorm};
  const std::vector<at::Tensor> leaves{x, weights.router, weights.gate_up, weights.down};
  const at::Tensor direction = at::randn({c.tokens, kHidden}, at::kDouble);

  LocalDispatcher dispatcher;
  const MoeOutput out = moe_layer(weights, options, x, dispatcher, 0);
  (out.y_TD * direction).sum().backward();
  std::vector<at::Tensor> ours;
  for (at::Tensor t : leaves) {
    ours.push_back(t.grad().clone());
    t.mutable_grad().reset();
  }
  const at::Tensor expected = naive_moe(weights, options, x);
  (expected * direction).sum().backward();

  EXPECT_TRUE(testing::near(out.y_TD.detach(), expected.detach(), 1e-12));
  const char* names[] = {"x", "router", "gate_up", "down"};
  for (size_t i = 0; i < leaves.size(); ++i) {
    const at::Tensor naive = leaves[i].grad().defined() ? leaves[i].grad() : at::zeros_like(leaves[i]);
    EXPECT_TRUE(testing::near(ours[i], naive, 1e-10)) << names[i];
  }
  const at::Tensor load = out.stats.tokens_per_expert_E;
  EXPECT_EQ(load.sum().item<int64_t>(), c.tokens * c.top_k);
  if (c.dead_expert) {
    EXPECT_EQ(load[c.experts - 1].item<int64_t>(), 0);
  }
  if (c.router_bias > 0) {
    EXPECT_EQ(load[0].item<int64_t>(), c.tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MoeGradientsTest,
                         ::testing::Values(Case{"plain", 17, 4, 2, 16, 0, false}, Case{"width_43", 17, 4, 2, 43, 0, false},
                                           Case{"dead_expert", 17, 4, 2, 16, 0, true}, Case{"one_expert_takes_all", 17, 4, 1, 16, 1000, false},
                                           Case{"all_experts", 9, 4, 4, 16, 0, false}, Case{"no_tokens", 0, 4, 2, 16, 0, false}),
                         [](const auto& test) { return test.param.name; });

TEST(RouterTest, TiesGoToTheLowestExpert) {
  const Routing routing = route(at::ones({5, 3}), at::zeros({6, 3}), 2, TopkNorm::kRenorm);
  for (int64_t t = 0; t < 5; ++t) {
    EXPECT_EQ(routing.expert_ids_TK[t][0].item<int64_t>(), 0);
    EXPECT_EQ(routing.expert_ids_TK[t][1].item<int64_t>(), 1);
  }
}

TEST(RouterTest, StraightThroughWeighsOneAndTrainsTheRouter) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({8, 6}, at::kDouble), weight = at::randn({4, 6}, at::kDouble).set_requires_grad(true);
  const Routing routing = route(x, weight, 1, TopkNorm::kStraightThrough);
  EXPECT_TRUE(routing.weights_TK.eq(1).all().item<bool>());
  const at::Tensor value = at::randn({8, 1}, at::kDouble);
  (routing.weights_TK * value).sum().backward();
  // The gradient is that of log p of the chosen expert.
  const at::Tensor ours = weight.grad().clone();
  weight.mutable_grad().reset();
  (at::log_softmax(at::matmul(x, weight.t()), 1).gather(1, routing.expert_ids_TK) * value).sum().backward();
  EXPECT_GT(testing::max_abs(ours), 0.01);
  EXPECT_TRUE(testing::near(ours, weight.grad(), 1e-12));
}

TEST(BalanceLossTest, IsOneAtUniformRoutingAndGrowsWithImbalance) {
  const at::Tensor uniform = at::full({4}, 100, at::kLong), probability = at::full({4}, 50.0, at::kDouble);
  const std::vector<RouterStats> even{{uniform, probability}, {uniform, probability}};
  EXPECT_NEAR(balance_loss(even, at::stack({uniform, uniform}), 200, 2).item<double>(), 1.0, 1e-12);
  const at::Tensor skewed = at::tensor(std::vector<int64_t>{400, 0, 0, 0}), certain = at::tensor(std::vector<double>{200, 0, 0, 0}, at::kDouble);
  EXPECT_NEAR(balance_loss({{skewed, certain}}, skewed.unsqueeze(0), 200, 2).item<double>(), 4.0, 1e-12);
}

}  // namespace
}  // namespace moe
