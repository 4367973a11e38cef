// Decoders whose attention is experts: against the dense model that they were cut from, with caches, and what their
// config says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/error.h"
#include "model/decoder.h"
#include "model/decoder_fixture.h"
#include "testing/compare.h"
#include "testing/message_of.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::by_name;
using ::testing::HasSubstr;
using testing::logits_of;
using testing::near;
using testing::random_batch;
using testing::random_decoder;
using testing::with_attention_experts;

DecoderOutput forward(const Decoder& decoder, const TokenBatch& batch) {
  const at::NoGradGuard no_grad;
  LocalDispatcher dispatcher;
  return decoder.forward(batch, dispatcher);
}

/// The weights of `dense` in the experts of `split`: query heads as they lie, with copies of their key-value heads.
void cut(const Decoder& dense, Decoder& split) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = split.config();
  const AttentionExperts& experts = *config.moe->attention;
  const std::map<std::string, at::Tensor> from = by_name(dense);
  const int64_t group = config.num_heads / config.num_kv_heads, d = config.head_dim;
  for (const auto& [name, to] : by_name(split)) {
    if (from.contains(name)) {
      to.copy_(from.at(name));
      continue;
    }
    const size_t at = name.find(".experts.");
    if (at == std::string::npos) continue;  // of the router
    const std::string rest = name.substr(at + 9);
    const int64_t expert = std::stoll(rest);
    const std::string matrix = rest.substr(rest.find('.') + 1), head = name.substr(0, at) + ".";
    const std::string out = from.contains(head + "dense.weight") ? "dense.weight" : "o_proj.weight";
    if (matrix == "o_proj.weight") {
      to.copy_(from.at(head + out).narrow(1, expert * experts.query_heads * d, experts.query_heads * d));
    } else if (matrix.starts_with("q_proj")) {
      to.copy_(from.at(head + matrix).narrow(0, expert * experts.query_heads * d, experts.query_heads * d));
    } else {
      to.copy_(from.at(head + matrix).narrow(0, expert * experts.query_heads / group * d, experts.kv_heads * d));
    }
  }
}

// Experts that partition attention, all chosen, with unit weights and scale one: the dense logits, of every family.
TEST(AttentionDecoderTest, APartitionWithAllChosenGivesTheDenseLogits) {
  for (const char* kind : testing::kTinyKinds) {
    for (const int64_t experts : {1, 2, 4}) {
      SCOPED_TRACE(concat(kind, ", ", experts, " experts"));
      const Decoder dense = random_decoder(testing::tiny_config(kind), at::kDouble);
      ModelConfig config = with_attention_experts(testing::tiny_config(kind), experts, experts);
      config.moe->attention->topk_norm = "unit";
      Decoder split = random_decoder(config, at::kDouble, 8);
      cut(dense, split);
      const TokenBatch batch = random_batch({9, 1, 14}, 61, 3);
      EXPECT_TRUE(near(logits_of(split, batch), logits_of(dense, batch), 1e-12));
      config.moe->attention->always_on = experts - 1;
      config.moe->attention->top_k = 1;
      Decoder mostly_on = random_decoder(config, at::kDouble, 9);
      cut(dense, mostly_on);
      EXPECT_TRUE(near(logits_of(mostly_on, batch), logits_of(dense, batch), 1e-12)) << "all but one always on";
    }
  }
}

// C4: prompts of several lengths, then a token at a time; some experts are first used then. C5: what the caches hold.
TEST(AttentionDecoderTest, CachedLogitsAreThoseOfTheWholeAndCachesHoldWhatWasRouted) {
  for (const char* kv_mode : {"routed", "dense"}) {
    ModelConfig config = with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 1, 1);
    config.moe->attention->topk_norm = "raw";
    config.moe->attention->kv_mode = kv_mode;
    const Decoder model = random_decoder(config, at::kDouble);
    const std::vector<int64_t> prompts{1, 7, 0, 3}, lengths{9, 15, 8, 11};
    const TokenBatch whole = random_batch(lengths, 61, 4);
    const at::Tensor expected = logits_of(model, whole);
    KvCache cache;
    TokenBatch prompt{at::empty({0}, at::kLong), {0}};
    for (size_t s = 0; s < 4; ++s) {
      prompt.tokens_T = at::cat({prompt.tokens_T, whole.tokens_T.narrow(0, whole.cu_seqlens[s], prompts[s])});
      prompt.cu_seqlens.push_back(prompt.cu_seqlens.back() + prompts[s]);
    }
    const at::Tensor first = logits_of(model, prompt, &cache);
    for (size_t s = 0; s < 4; ++s) {
      EXPECT_TRUE(near(first.narrow(0, prompt.cu_seqlens[s], prompts[s]),
                       expected.narrow(0, whole.cu_seqlens[s], prompts[s]), 1e-12));
    }
    int64_t first_used = 0;
    for (int64_t step = 0; step < 8; ++step) {
      const std::vector<SequenceKvCache> before = cache.sequences;
      std::vector<at::Tensor> tokens;
      for (size_t s = 0; s < 4; ++s)
        tokens.push_back(whole.tokens_T.narrow(0, whole.cu_seqlens[s] + prompts[s] + step, 1));
      const at::Tensor logits = logits_of(model, {at::cat(tokens), {0, 1, 2, 3, 4}}, &cache);
      for (int64_t s = 0; s < 4; ++s) {
        EXPECT_TRUE(near(logits[s], expected[whole.cu_seqlens[s] + prompts[s] + step], 1e-12)) << kv_mode << step;
        for (size_t e = 0; e < 4; ++e) {
          const auto& now = cache.sequences[s].layers[1].experts[e];
          const auto& was = before[s].layers[1].experts;
          first_used += prompts[s] > 0 && now.keys.defined() && !was[e].keys.defined();
        }
      }
    }
    // What was routed where, from the whole, told by each sequence alone.
    for (size_t s = 0; s < 4; ++s) {
      const int64_t tokens = prompts[s] + 8;
      const DecoderOutput out = forward(model, {whole.tokens_T.narrow(0, whole.cu_seqlens[s], tokens), {0, tokens}});
      for (size_t layer = 0; layer < 2; ++layer) {
        for (int64_t e = 0; e < 4; ++e) {
          const at::Tensor& keys = cache.sequences[s].layers[layer].experts[e].keys;
          const bool is_on = e == 0 || std::string(kv_mode) == "dense";
          const int64_t routed =
              is_on ? tokens : out.attention_router[layer].tokens_per_expert_E[e - 1].item<int64_t>();
          EXPECT_EQ(keys.defined() ? keys.size(0) : 0, routed) << kv_mode << " sequence " << s << " expert " << e;
        }
      }
    }
    if (std::string(kv_mode) == "routed") {
      EXPECT_GT(first_used, 0) << "no expert was first used while decoding";
    }
  }
}

// Prompts in chunks of several tokens, some of them of none, and in chunks of one: the logits of the whole. 2.4 of
// LLaMA-MoE v2's specification.
TEST(AttentionDecoderTest, PromptsInChunksGiveTheLogitsOfTheWhole) {
  using Chunks = std::vector<std::vector<int64_t>>;  // of both sequences
  const std::vector<Chunks> splits{{{5, 4}, {6, 0}, {1, 5}, {7, 2}}, {{2, 10}, {17, 1}}};
  for (const char* kv_mode : {"routed", "dense"}) {
    for (const int64_t always_on : {0, 1}) {
      ModelConfig config = with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 2, always_on);
      config.moe->attention->kv_mode = kv_mode;
      const Decoder model = random_decoder(config, at::kDouble);
      const TokenBatch whole = random_batch({19, 11}, 61, 6);
      const at::Tensor expected = logits_of(model, whole);
      for (const Chunks& chunks : splits) {
        KvCache cache;
        std::vector<int64_t> done{0, 0};
        for (const std::vector<int64_t>& chunk : chunks) {
          TokenBatch batch{at::empty({0}, at::kLong), {0}};
          for (size_t s = 0; s < 2; ++s) {
            batch.tokens_T =
                at::cat({batch.tokens_T, whole.tokens_T.narrow(0, whole.cu_seqlens[s] + done[s], chunk[s])});
            batch.cu_seqlens.push_back(batch.cu_seqlens.back() + chunk[s]);
          }
          const at::Tensor logits = logits_of(model, batch, &cache);
          for (size_t s = 0; s < 2; ++s) {
            EXPECT_TRUE(near(logits.narrow(0, batch.cu_seqlens[s], chunk[s]),
                             expected.narrow(0, whole.cu_seqlens[s] + done[s], chunk[s]), 1e-12))
                << kv_mode << ", " << always_on << " always on, sequence " << s << " after " << done[s];
            done[s] += chunk[s];
          }
        }
        EXPECT_EQ(done, (std::vector<int64_t>{19, 11})) << "the chunks are all of it";
      }
    }
  }
}

TEST(AttentionDecoderTest, SequencesOfACacheAreCopiedTakenOutAndReordered) {
  const Decoder model = random_decoder(with_attention_experts(testing::tiny_config(), 4, 2), at::kDouble);
  const TokenBatch prompts = random_batch({5, 6}, 61, 5);
  KvCache cache;
  logits_of(model, prompts, &cache);
  cache.sequences = {cache.sequences[1], cache.sequences[1], cache.sequences[0]};
  const at::Tensor logits = logits_of(model, {at::tensor({7, 8, 9}, at::kLong), {0, 1, 2, 3}}, &cache);
  const auto continued = [&](int64_t first, int64_t count, int64_t token) {
    const at::Tensor tokens = at::cat({prompts.tokens_T.narrow(0, first, count), at::full({1}, token, at::kLong)});
    return logits_of(model, {tokens, {0, count + 1}})[count];
  };
  EXPECT_TRUE(near(logits[0], continued(5, 6, 7), 1e-12));
  EXPECT_TRUE(near(logits[1], continued(5, 6, 8), 1e-12));
  EXPECT_TRUE(near(logits[2], continued(0, 5, 9), 1e-12));
}

/// By hand, of the tiny LLaMA with 4 experts of a head: q and o of 8 x 32, k and v of 8 x 32 each, so 1,024 an expert;
/// a router of 4 x 32. In two layers 8,192 + 256 in place of a dense attention of 2 x (32 x 32 x 2 + 16 x 32 x 2).
TEST(AttentionDecoderTest, ParametersAreCountedAsTheyAreUsed) {
  const ParameterCount dense = count_parameters(testing::tiny_config());
  const int64_t others = dense.total - 2 * 3072;
  const ParameterCount two = count_parameters(with_attention_experts(testing::tiny_config(), 4, 2));
  EXPECT_EQ(two.total, others + 8192 + 256);
  EXPECT_EQ(two.active, others + 8192 / 2 + 256);
  const ParameterCount one_on = count_parameters(with_attention_experts(testing::tiny_config(), 4, 1, 1));
  EXPECT_EQ(one_on.total, others + 8192 + 192);
  EXPECT_EQ(one_on.active, others + 2 * (1024 + 3 * 1024 / 3) + 192);
}

/// LLaMA-3-8B of LLaMA-MoE v2's specification; `experts` of its FFN beside `shared`, with attention's 7 of 8 or
/// without.
ParameterCount of_llama3(int64_t experts, int64_t top_k, int64_t shared, bool has_attention_experts) {
  ModelConfig config = parse_model_config(
      R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
          "rms_norm_eps": 1e-5, "tie_word_embeddings": false})",
      "llama-3-8b");
  if (experts > 0) {
    MoeConfig moe;
    moe.base_model_type = "llama";
    moe.num_experts = experts;
    moe.top_k = top_k;
    moe.expert_widths.assign(32, 1792);
    moe.shared_widths.assign(32, 1792 * shared);
    moe.output_scale.assign(32, 1);
    config.moe = moe;
  }
  return count_parameters(has_attention_experts ? with_attention_experts(config, 8, 7) : config);
}

/// LLaMA-MoE v2, F3: section 1.1's integers. And 2.3's 3.63 billion with seven of eight experts of attention, an eighth
/// of 1,342,177,280 fewer: 3,635,679,232 without the 32 x 8 x 4096 rows of their routers.
TEST(AttentionDecoderTest, ParametersOfThePublishedModels) {
  EXPECT_EQ(of_llama3(0, 0, 0, false).total, 8030261248);
  EXPECT_EQ(of_llama3(0, 0, 0, false).active, 8030261248);
  EXPECT_EQ(of_llama3(8, 2, 0, false).active, 3803451392);
  EXPECT_EQ(of_llama3(8, 2, 0, false).total, 8030261248 + 32 * 8 * 4096) << "the routers alone are new";
  EXPECT_EQ(of_llama3(7, 1, 1, false).active, 3803320320);
  EXPECT_EQ(of_llama3(7, 1, 1, false).total, 8030261248 + 32 * 7 * 4096);
  EXPECT_EQ(of_llama3(8, 2, 0, true).active, 3635679232 + 32 * 8 * 4096);
  EXPECT_EQ(of_llama3(8, 2, 0, true).total, 8030261248 + 2 * 32 * 8 * 4096);
}

TEST(AttentionConfigTest, IsWrittenAndReadBack) {
  ModelConfig config = with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 1, 2);
  config.moe->attention->layers = {0, 1};
  config.moe->attention->output_scale = {1, 2.5};
  config.moe->attention->kv_mode = "dense";
  config.moe->attention->score = "sigmoid";
  config.moe->attention->topk_norm = "raw";
  config.moe->attention->has_selection_bias = true;
  const ModelConfig read = parse_model_config(to_json(config).dump(), "config.json");
  EXPECT_EQ(to_json(read), to_json(config));
  const AttentionExperts& attention = *read.moe->attention;
  EXPECT_EQ(attention.num_experts, 4);
  EXPECT_EQ(attention.num_routed(), 2);
  EXPECT_EQ(attention.expert_layers(), (std::vector<int64_t>{1}));
  EXPECT_FALSE(read.has_attention_experts(0));
  EXPECT_EQ(attention.output_scale[1], 2.5);
  EXPECT_EQ(attention.kv_mode, "dense");
  EXPECT_EQ(attention.score, "sigmoid");
  EXPECT_TRUE(attention.has_selection_bias);
}

TEST(AttentionConfigTest, WhatCannotWorkIsRefusedWithKeyAndValue) {
  const nlohmann::json good = to_json(with_attention_experts(testing::tiny_config(), 4, 2, 1));
  const auto message = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json bad = good;
    bad["moe"]["attention"][key] = value;
    return testing::message_of([&] { parse_model_config(bad.dump(), "config.json"); });
  };
  EXPECT_EQ(message("top_k", 4),
            "config.json: moe.attention: `top_k` is 4; expected at most 3: num_experts 4 without the 1 that are always "
            "on");
  EXPECT_EQ(message("num_experts", 3),
            "config.json: moe.attention: `num_experts` is 3; expected a divisor of num_attention_heads 4");
  EXPECT_EQ(message("always_on", 4), "config.json: moe.attention: `always_on` is 4; expected less than num_experts 4");
  EXPECT_EQ(message("query_heads", 2),
            "config.json: moe.attention: `query_heads` is 2; expected 1: num_attention_heads 4 over num_experts 4");
  EXPECT_EQ(message("kv_heads", 3), "config.json: moe.attention: `kv_heads` is 3; expected a divisor of query_heads 1");
  EXPECT_THAT(message("layers", {0, 0}), HasSubstr("expected 1 in some layer"));
  EXPECT_THAT(message("layers", {1, 2}), HasSubstr("expected 1 (experts) or 0 (dense) for each layer"));
  EXPECT_THAT(message("kv_mode", "some"), HasSubstr("expected \"routed\" or \"dense\""));
  nlohmann::json none = good;
  none["moe"].erase("attention");
  EXPECT_THROW(parse_model_config(none.dump(), "config.json"), InvalidArgument) << "no experts anywhere";
  nlohmann::json widths = good;
  widths["moe"]["expert_widths"] = {12, 0};
  EXPECT_THROW(parse_model_config(widths.dump(), "config.json"), InvalidArgument) << "widths of no experts";
}

}  // namespace
}  // namespace moe
