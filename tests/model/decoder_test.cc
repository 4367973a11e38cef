#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "common/error.h"
#include "common/rng.h"
#include "model/decoder_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::by_name;
using testing::config_of;
using testing::DecoderTest;
using testing::fill_random;
using testing::Kind;
using testing::logits_of;
using testing::near;
using testing::random_batch;
using testing::require_all_gradients;
using testing::tiny_config;
using testing::tiny_moe_config;

/// Labels: the next token of each sequence, none for its last.
at::Tensor next_tokens(const TokenBatch& batch) {
  at::Tensor labels = at::full_like(batch.tokens_T, -100);
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    const int64_t begin = batch.cu_seqlens[s], targets = batch.cu_seqlens[s + 1] - begin - 1;
    if (targets > 0) labels.narrow(0, begin, targets).copy_(batch.tokens_T.narrow(0, begin + 1, targets));
  }
  return labels;
}

TokenBatch sequence(const TokenBatch& batch, size_t s) {
  const int64_t begin = batch.cu_seqlens[s], length = batch.cu_seqlens[s + 1] - begin;
  return {batch.tokens_T.narrow(0, begin, length), {0, length}};
}

INSTANTIATE_TEST_SUITE_P(, DecoderTest,
                         ::testing::Values(Kind{"Dense", "llama", false}, Kind{"Moe", "llama", true},
                                           Kind{"DenseBiases", "llama_biases", false},
                                           Kind{"MoeBiases", "llama_biases", true}, Kind{"Qwen2Dense", "qwen2", false},
                                           Kind{"Qwen2Moe", "qwen2", true}, Kind{"PhiDense", "phi", false},
                                           Kind{"PhiMoe", "phi", true}, Kind{"MixedFirst", "llama", true, 0},
                                           Kind{"MixedLast", "llama_biases", true, 1},
                                           Kind{"Qwen2Mixed", "qwen2", true, 1}, Kind{"PhiMixed", "phi", true, 0}),
                         [](const auto& test) { return test.param.name; });

// No attention across packed sequences: losses have the same bits as each sequence alone, gradients agree to 1e-5.
TEST_P(DecoderTest, PackedSequencesEqualSequencesAlone) {
  Decoder model = decoder(at::kFloat);
  require_all_gradients(model);
  const TokenBatch batch = random_batch({7, 7, 1, 20, 13}, 61, 1);
  const at::Tensor labels = next_tokens(batch);
  LocalDispatcher dispatcher;
  const at::Tensor packed = model.token_losses(model.forward(batch, dispatcher).hidden_TD, labels);
  packed.sum().backward();
  std::vector<at::Tensor> expected;
  for (Parameter& parameter : model.parameters()) {
    expected.push_back(parameter.value.grad().clone());
    parameter.value.mutable_grad() = at::Tensor();
  }
  int64_t differ = 0;
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    const TokenBatch alone = sequence(batch, s);
    const at::Tensor losses = model.token_losses(model.forward(alone, dispatcher).hidden_TD, next_tokens(alone));
    const at::Tensor same = packed.narrow(0, batch.cu_seqlens[s], alone.tokens_T.size(0));
    EXPECT_TRUE(near(losses, same, 1e-5)) << "sequence " << s;
    differ += losses.ne(same).sum().item<int64_t>();
    losses.sum().backward();
  }
  EXPECT_EQ(differ, 0) << "token losses of " << batch.tokens_T.size(0) << " differ in some bit";
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(near(model.parameters()[i].value.grad(), expected[i], 1e-5)) << model.parameters()[i].name;
  }
}

TEST_P(DecoderTest, LaterTokensDoNotChangeEarlierLogits) {
  const Decoder model = decoder(at::kFloat);
  TokenBatch batch = random_batch({16}, 61, 3);
  const at::Tensor before = logits_of(model, batch);
  batch.tokens_T[10] = (batch.tokens_T[10] + 1) % 61;
  const at::Tensor after = logits_of(model, batch);
  EXPECT_TRUE(near(after.narrow(0, 0, 10), before.narrow(0, 0, 10), 1e-6));
  EXPECT_FALSE(near(after.narrow(0, 10, 6), before.narrow(0, 10, 6), 1e-2));
}

// Losses are the same whether a gradient is asked (all logits at once) or not (chunks).
TEST_P(DecoderTest, ChunkedLossesEqualWholeOnes) {
  ModelConfig config = config_of(GetParam());
  config.vocab_size = 30000;  // 240 tokens make more than one chunk
  Decoder model(config, at::kFloat, {0, 4});
  fill_random(model, 7);
  const TokenBatch batch = random_batch({60, 60, 60, 60}, config.vocab_size, 4);
  const at::Tensor labels = next_tokens(batch);
  LocalDispatcher dispatcher;
  const auto losses = [&] { return model.token_losses(model.forward(batch, dispatcher).hidden_TD, labels).detach(); };
  require_all_gradients(model);
  const at::Tensor whole = losses();
  const at::NoGradGuard no_grad;
  const at::Tensor chunked = losses();
  EXPECT_EQ(chunked.ne(whole).sum().item<int64_t>(), 0);
  EXPECT_EQ(whole.masked_select(labels.eq(-100)).abs().sum().item<float>(), 0);
  EXPECT_GT(whole.masked_select(labels.ne(-100)).min().item<float>(), 0);
}

TEST_P(DecoderTest, NoTokensGiveNoRows) {
  Decoder model = decoder(at::kFloat);
  require_all_gradients(model);
  const TokenBatch batch{at::empty({0}, at::kLong), {0}};
  LocalDispatcher dispatcher;
  const DecoderOutput output = model.forward(batch, dispatcher);
  EXPECT_EQ(output.hidden_TD.sizes(), (std::vector<int64_t>{0, 32}));
  model.token_losses(output.hidden_TD, at::empty({0}, at::kLong)).sum().backward();
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.value.grad().defined()) {
      EXPECT_EQ(testing::max_abs(parameter.value.grad()), 0) << parameter.name;
    }
  }
}

TEST_P(DecoderTest, TiedHeadIsTheEmbedding) {
  ModelConfig config = config_of(GetParam());
  Decoder untied(config, at::kDouble, {0, 4});
  fill_random(untied, 5);
  config.tie_word_embeddings = true;
  Decoder tied(config, at::kDouble, {0, 4});
  fill_random(tied, 5);
  {
    const at::NoGradGuard no_grad;
    by_name(untied).at("lm_head.weight").copy_(by_name(untied).at("model.embed_tokens.weight"));
  }
  const TokenBatch batch = random_batch({11}, 61, 6);
  EXPECT_TRUE(near(logits_of(tied, batch), logits_of(untied, batch), 1e-12));
}

// A partition of the FFN's neurons with every expert chosen, equal weights and scale E is the dense FFN itself.
struct Partition {
  const char* name;
  int64_t experts, shared_width;
};
class IdentityTest : public ::testing::TestWithParam<Partition> {};
INSTANTIATE_TEST_SUITE_P(, IdentityTest,
                         ::testing::Values(Partition{"experts_2", 2, 0}, Partition{"experts_6", 6, 0},
                                           Partition{"experts_48", 48, 0}, Partition{"shared_8_of_48", 5, 8}),
                         [](const auto& test) { return test.param.name; });

TEST_P(IdentityTest, AllExpertsWithScaleEGiveDenseLogits) {
  const auto [name, experts, shared_width] = GetParam();
  Decoder dense(tiny_config(), at::kFloat, {0, 0});
  fill_random(dense, 3);
  const int64_t width = (48 - shared_width) / experts;
  ModelConfig config = tiny_moe_config(experts, experts, width, shared_width);
  config.moe->topk_norm = "renorm";
  config.moe->output_scale.assign(2, static_cast<double>(experts));
  Decoder moe(config, at::kFloat, {0, experts});
  {
    const at::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> from = by_name(dense);
    for (auto& [tensor_name, to] : by_name(moe)) {
      if (from.count(tensor_name) > 0) to.copy_(from.at(tensor_name));
    }
    auto to = by_name(moe);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const std::string mlp = "model.layers." + std::to_string(layer) + ".mlp.";
      const at::Tensor neurons = at::tensor(random_permutation(48, CounterRng(11, kStreamTest, layer)), at::kLong);
      to.at(mlp + "router.weight").zero_();
      const auto take = [&](const std::string& part, int64_t first, int64_t count) {
        const at::Tensor chosen = neurons.narrow(0, first, count);
        for (const char* matrix : {"gate_proj.weight", "up_proj.weight"}) {
          to.at(mlp + part + matrix).copy_(from.at(mlp + matrix).index_select(0, chosen));
        }
        to.at(mlp + part + "down_proj.weight").copy_(from.at(mlp + "down_proj.weight").index_select(1, chosen));
      };
      for (int64_t e = 0; e < experts; ++e) take("experts." + std::to_string(e) + ".", e * width, width);
      if (shared_width > 0) take("shared_expert.", experts * width, shared_width);
    }
  }
  const TokenBatch batch = random_batch({20, 20, 5}, 61, 9);
  const at::Tensor expected = logits_of(dense, batch), actual = logits_of(moe, batch);
  EXPECT_TRUE(near(actual, expected, 1e-5));
  RecordProperty("max_difference", std::to_string(testing::max_difference(actual, expected)));
}

TEST(DecoderExpertsTest, ADispatcherOfOtherExpertsIsRefused) {
  const Decoder model(tiny_moe_config(4, 2, 12), at::kFloat, {2, 2});
  LocalDispatcher dispatcher;
  EXPECT_THROW(model.forward(random_batch({3}, 61, 1), dispatcher), Internal) << "it owns all four";
}

// The router of a top-1 mixture learns: its gradient through the whole model is not zero.
TEST(DecoderGradientTest, TopOneTrainsItsRouter) {
  Decoder model(tiny_moe_config(4, 1, 12), at::kFloat, {0, 4});
  fill_random(model, 7);
  require_all_gradients(model);
  const TokenBatch batch = random_batch({30}, 61, 1);
  LocalDispatcher dispatcher;
  model.token_losses(model.forward(batch, dispatcher).hidden_TD, next_tokens(batch)).sum().backward();
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.name.find("router") == std::string::npos) continue;
    EXPECT_GT(testing::max_abs(parameter.value.grad()), 1e-3) << parameter.name;
  }
}

/// The largest gradient of a router from the cross-entropy of the whole top-1 model.
double router_gradient(at::ScalarType dtype, const char* topk_norm) {
  ModelConfig config = tiny_moe_config(4, 1, 12);
  config.moe->topk_norm = topk_norm;
  Decoder model(config, dtype, {0, 4});
  fill_random(model, 7);
  require_all_gradients(model);
  const TokenBatch batch = random_batch({30}, 61, 1);
  LocalDispatcher dispatcher;
  model.token_losses(model.forward(batch, dispatcher).hidden_TD, next_tokens(batch)).sum().backward();
  double most = 0;
  for (const Parameter& parameter : model.parameters()) {
    if (!is_of_router(parameter.id.part) || !parameter.value.grad().defined()) continue;
    most = std::max(most, testing::max_abs(parameter.value.grad()));
  }
  return most;
}

// llama-moe-v2 D6: a weight that is renormalised over one expert is 1 whatever the router says.
TEST(DecoderGradientTest, TopOneRenormalisedDoesNotTrainItsRouter) {
  EXPECT_LE(router_gradient(at::kDouble, "renorm"), 1e-12);
  EXPECT_LE(router_gradient(at::kFloat, "renorm"), 1e-5);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat})
    EXPECT_GT(router_gradient(dtype, "straight_through"), 1e-3);
}

// llama-moe-v2 E2: a sequence without any target has no loss and changes no gradient, and nothing but such is a loss
// of 0.
TEST(DecoderGradientTest, SequencesWithoutTargetsCountForNothing) {
  Decoder model(tiny_moe_config(4, 2, 12), at::kDouble, {0, 4});
  fill_random(model, 7);
  require_all_gradients(model);
  const TokenBatch batch = random_batch({9, 14}, 61, 1);
  LocalDispatcher dispatcher;
  const auto gradients_of = [&](const TokenBatch& tokens, const at::Tensor& labels) {
    const at::Tensor losses = model.token_losses(model.forward(tokens, dispatcher).hidden_TD, labels);
    EXPECT_EQ(losses.masked_select(labels.eq(-100)).count_nonzero().item<int64_t>(), 0);
    losses.sum().backward();
    std::vector<at::Tensor> gradients;
    for (Parameter& parameter : model.parameters()) {
      const at::Tensor& gradient = parameter.value.grad();
      gradients.push_back(gradient.defined() ? gradient.clone() : at::zeros_like(parameter.value));
      parameter.value.mutable_grad() = at::Tensor();
    }
    return gradients;
  };
  at::Tensor labels = next_tokens(batch);
  labels.narrow(0, 9, 14).fill_(-100);
  const std::vector<at::Tensor> both = gradients_of(batch, labels),
                                alone = gradients_of(sequence(batch, 0), labels.narrow(0, 0, 9)),
                                none = gradients_of(batch, at::full_like(labels, -100));
  for (size_t i = 0; i < both.size(); ++i) {
    EXPECT_TRUE(near(both[i], alone[i], 1e-12)) << model.parameters()[i].name;
    EXPECT_EQ(none[i].count_nonzero().item<int64_t>(), 0) << model.parameters()[i].name;  // a NaN is not zero
  }
}

}  // namespace
}  // namespace moe
