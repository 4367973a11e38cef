// A mixture whose experts do not take every token, against the whole layer and a loop, in float64.
#include "model/moe/token_limit.h"

#include <gtest/gtest.h>

#include "model/moe/moe_layer.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

constexpr int64_t kTokens = 12;
const MoeOptions kOptions{4, {1, TopkNorm::kRaw}, 1.5};

struct Problem {
  MoeWeights weights;
  at::Tensor x;
};

Problem problem() {
  Problem p;
  const auto leaf = [](const at::Tensor& value) { return value.detach().clone().requires_grad_(true); };
  p.weights.router.weight_ED = leaf(random_normal({4, 8}, 1));
  p.weights.gate_up = leaf(random_normal({4, 12, 8}, 2) * 0.3);
  p.weights.down = leaf(random_normal({4, 8, 6}, 3) * 0.3);
  p.weights.shared = FeedForwardWeights{random_normal({5, 8}, 4), random_normal({5, 8}, 5), random_normal({8, 5}, 6)};
  p.x = leaf(random_normal({kTokens, 8}, 7));
  return p;
}

/// Drops every third token; asked for what the router chose.
TokenLimit every_third(bool gives_input) {
  return {[](const at::Tensor& ids_T, int64_t num_experts, int64_t layer) {
            EXPECT_EQ(ids_T.dim(), 1);
            EXPECT_EQ(num_experts, 4);
            EXPECT_EQ(layer, 5);
            return at::arange(ids_T.size(0)).remainder(3).ne(0);
          },
          gives_input};
}

TEST(TokenLimitTest, ADroppedTokenGetsZeroOrItsInputAndTheOthersWhatTheyGot) {
  const at::Tensor direction = random_normal({kTokens, 8}, 8);
  for (const bool gives_input : {false, true}) {
    SCOPED_TRACE(gives_input ? "input" : "zero");
    LocalDispatcher dispatcher;
    const Problem ours = problem(), theirs = problem();
    const TokenLimit limit = every_third(gives_input);
    const MoeOutput limited = moe_layer(ours.weights, kOptions, ours.x, dispatcher, 5, {.limit = &limit});
    // The whole layer, the rows of dropped tokens exchanged.
    MoeWeights routed = theirs.weights;
    routed.shared.reset();
    const at::Tensor whole = moe_layer(routed, kOptions, theirs.x, dispatcher, 5).y_TD;
    const at::Tensor p = at::softmax(at::matmul(theirs.x, theirs.weights.router.weight_ED.t()), 1);
    const at::Tensor instead = gives_input ? 1.5 * p.amax(1).unsqueeze(1) * theirs.x : at::zeros_like(whole);
    const at::Tensor kept = at::arange(kTokens).remainder(3).ne(0).unsqueeze(1);
    const at::Tensor expected = at::where(kept, whole, instead) + feed_forward(*theirs.weights.shared, theirs.x);
    EXPECT_TRUE(near(limited.y_TD, expected, 1e-12));
    EXPECT_EQ(limited.stats.tokens_per_expert_E.sum().item<int64_t>(), kTokens) << "stats count what was chosen";
    limited.y_TD.backward(direction);
    expected.backward(direction);
    EXPECT_TRUE(near(ours.x.grad(), theirs.x.grad(), 1e-11));
    EXPECT_TRUE(near(ours.weights.router.weight_ED.grad(), theirs.weights.router.weight_ED.grad(), 1e-11));
    EXPECT_TRUE(near(ours.weights.gate_up.grad(), theirs.weights.gate_up.grad(), 1e-11));
    EXPECT_TRUE(near(ours.weights.down.grad(), theirs.weights.down.grad(), 1e-11));
  }
}

TEST(TokenLimitTest, NoneDroppedIsTheLayerBitForBitAndAllDroppedIsNone) {
  const at::NoGradGuard no_grad;
  const Problem p = problem();
  LocalDispatcher dispatcher;
  const at::Tensor whole = moe_layer(p.weights, kOptions, p.x, dispatcher, 0).y_TD;
  const TokenLimit none{[](const at::Tensor&ids_T, int64_t, int64_t) { return at::ones(ids_T.sizes(), at::kBool); }},
      all{[](const at::Tensor&ids_T, int64_t, int64_t) { return at::zeros(ids_T.sizes(), at::kBool); }}, absent;
  EXPECT_TRUE(at::equal(moe_layer(p.weights, kOptions, p.x, dispatcher, 0, {.limit = &none}).y_TD, whole));
  EXPECT_TRUE(at::equal(moe_layer(p.weights, kOptions, p.x, dispatcher, 0, {.limit = &absent}).y_TD, whole));
  EXPECT_TRUE(near(moe_layer(p.weights, kOptions, p.x, dispatcher, 0, {.limit = &all}).y_TD,
                   feed_forward(*p.weights.shared, p.x), 1e-12));
  const at::Tensor nothing = p.x.narrow(0, 0, 0);
  EXPECT_EQ(moe_layer(p.weights, kOptions, nothing, dispatcher, 0, {.limit = &all}).y_TD.size(0), 0);
}

}  // namespace
}  // namespace moe
