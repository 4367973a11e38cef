// Choices of experts that are not the router's, and the uniform gates of LLaMA-MoE v1, which are choices of all.
#include "model/moe/expert_choice.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "common/error.h"
#include "model/decoder.h"
#include "model/moe/moe_layer.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_normal;

const PassChoice kRandom{ExpertChoice::kRandom, {.seed = 7, .step = 3, .first_token = 100}};

at::Tensor ids_of(const PassChoice& pass, int64_t tokens, int64_t experts, int64_t top_k, int64_t router = 2) {
  return chosen_ids(pass, router, tokens, experts, top_k, at::kCPU);
}

TEST(ExpertChoiceTest, FirstTakesTheFirstOfEveryTokenAndTheRouterNone) {
  EXPECT_TRUE(
      at::equal(ids_of({ExpertChoice::kFirst}, 3, 5, 2), at::tensor({0, 1, 0, 1, 0, 1}, at::kLong).view({3, 2})));
  EXPECT_EQ(ids_of({ExpertChoice::kFirst}, 0, 5, 2).size(0), 0);
  EXPECT_FALSE(ids_of({}, 3, 5, 2).defined());
  EXPECT_THROW(parse_expert_choice("last"), InvalidArgument);
}

TEST(ExpertChoiceTest, RandomIsOfSeedStepRouterAndPlace) {
  const at::Tensor all = ids_of(kRandom, 50, 7, 3);
  PassChoice later = kRandom;
  later.source.first_token = 120;
  EXPECT_TRUE(at::equal(ids_of(later, 30, 7, 3), all.narrow(0, 20, 30)));
  PassChoice seed = kRandom, step = kRandom;
  seed.source.seed = 8;
  step.source.step = 4;
  for (const at::Tensor& other : {ids_of(seed, 50, 7, 3), ids_of(step, 50, 7, 3), ids_of(kRandom, 50, 7, 3, 3),
                                  ids_of(kRandom, 50, 7, 3, attention_router(2))})
    EXPECT_FALSE(at::equal(other, all));
}

/// Each of the 10 pairs of 5 experts, 20,000 tokens: chi-square of 9 degrees of freedom is below 27.9 with
/// probability 0.999.
TEST(ExpertChoiceTest, RandomTakesEverySetAlikeOften) {
  const int64_t tokens = 20000;
  const at::Tensor ids = ids_of(kRandom, tokens, 5, 2);
  const auto* id = ids.const_data_ptr<int64_t>();
  std::map<std::set<int64_t>, int64_t> counts;
  for (int64_t t = 0; t < tokens; ++t) ++counts[{id[2 * t], id[2 * t + 1]}];
  ASSERT_EQ(counts.size(), 10U) << "a token has an expert twice";
  double chi_square = 0;
  for (const auto& [pair, count] : counts) {
    EXPECT_EQ(pair.size(), 2U);
    const double difference = static_cast<double>(count) - 2000;
    chi_square += difference * difference / 2000;
  }
  EXPECT_LT(chi_square, 27.9);
}

/// Experts of width 6 in float64, with a router that has a preference.
MoeWeights random_weights(int64_t experts) {
  MoeWeights weights;
  weights.router.weight_ED = random_normal({experts, 8}, 1);
  weights.gate_up = random_normal({experts, 12, 8}, 2);
  weights.down = random_normal({experts, 8, 6}, 3);
  return weights;
}

/// What one expert makes of x.
at::Tensor expert(const MoeWeights& weights, int64_t e, const at::Tensor& x) {
  const at::Tensor in = at::matmul(x, weights.gate_up[e].t());
  const at::Tensor gate = in.narrow(1, 0, 6);
  return at::matmul(gate * at::sigmoid(gate) * in.narrow(1, 6, 6), weights.down[e].t());
}

/// LLaMA-MoE v1's RandomLearnable: any experts, weighed by the router.
TEST(ExpertChoiceTest, ALayerWeighsWhatWasChosenForIt) {
  const at::Tensor x = random_normal({20, 8}, 4);
  const MoeWeights weights = random_weights(5);
  const MoeOptions options{5, {2}, 1.5};
  LocalDispatcher dispatcher;
  const at::Tensor logits = at::matmul(x, weights.router.weight_ED.t());
  for (const PassChoice& choice : {kRandom, PassChoice{ExpertChoice::kFirst}}) {
    const at::Tensor ids = ids_of(choice, 20, 5, 2, /*router=*/6);
    const at::Tensor w = at::softmax(logits.gather(1, ids), 1);
    std::vector<at::Tensor> rows;
    for (int64_t t = 0; t < 20; ++t) {
      at::Tensor y = at::zeros({1, 8}, at::kDouble);
      for (int64_t k = 0; k < 2; ++k)
        y = y + 1.5 * w[t][k] * expert(weights, ids[t][k].item<int64_t>(), x.narrow(0, t, 1));
      rows.push_back(y);
    }
    const MoeOutput output = moe_layer(weights, options, x, dispatcher, /*layer=*/6, {.choice = choice});
    EXPECT_TRUE(near(output.y_TD, at::cat(rows), 1e-12));
    EXPECT_FALSE(near(moe_layer(weights, options, x, dispatcher, 6).y_TD, at::cat(rows), 1e-3)) << "the router's own";
  }
}

/// UniformPlain: every expert with weight 1; UniformLearnable: every expert with its softmax.
TEST(ExpertChoiceTest, AllExpertsAreTheUniformGates) {
  const at::Tensor x = random_normal({20, 8}, 4);
  const MoeWeights weights = random_weights(5);
  const at::Tensor p = at::softmax(at::matmul(x, weights.router.weight_ED.t()), 1);
  at::Tensor plain = at::zeros({20, 8}, at::kDouble), learnable = plain.clone();
  for (int64_t e = 0; e < 5; ++e) {
    plain += 0.25 * expert(weights, e, x);
    learnable += 0.25 * p.select(1, e).unsqueeze(1) * expert(weights, e, x);
  }
  LocalDispatcher dispatcher;
  EXPECT_TRUE(near(moe_layer(weights, {5, {5, TopkNorm::kUnit}, 0.25}, x, dispatcher, 0).y_TD, plain, 1e-12));
  EXPECT_TRUE(near(moe_layer(weights, {5, {5, TopkNorm::kRenorm}, 0.25}, x, dispatcher, 0).y_TD, learnable, 1e-12));
}

/// Attention's routers too, whose experts that are always on stay so.
TEST(ExpertChoiceTest, OfADecoderIsOfFfnsAndAttention) {
  const ModelConfig config = testing::with_attention_experts(testing::tiny_moe_config(6, 2, 8), 4, 2, 1);
  Decoder decoder(config, at::kDouble, all_experts(config));
  testing::fill_random(decoder, 3);
  LocalDispatcher dispatcher;
  const at::NoGradGuard no_grad;
  const TokenBatch batch = testing::random_batch({9, 14}, 61, 5);
  const DecoderOutput first = decoder.forward(batch, dispatcher, {.choice = {ExpertChoice::kFirst}});
  for (int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_TRUE(at::equal(first.router[layer].tokens_per_expert_E, at::tensor({23, 23, 0, 0, 0, 0}, at::kLong)));
    EXPECT_TRUE(at::equal(first.attention_router[layer].tokens_per_expert_E, at::tensor({23, 23, 0}, at::kLong)));
  }
  const DecoderOutput random = decoder.forward(batch, dispatcher, {.choice = kRandom}),
                      again = decoder.forward(batch, dispatcher, {.choice = kRandom});
  EXPECT_TRUE(at::equal(random.hidden_TD, again.hidden_TD));
  EXPECT_FALSE(at::equal(random.hidden_TD, first.hidden_TD));
  EXPECT_EQ(random.attention_router[0].tokens_per_expert_E.sum().item<int64_t>(), 2 * 23);
}

}  // namespace
}  // namespace moe
