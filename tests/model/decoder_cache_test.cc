// A sequence that is read in parts, with a cache of keys and values, against the whole of it.

#include <gtest/gtest.h>

#include <vector>

#include "common/error.h"
#include "model/decoder_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::config_of;
using testing::DecoderTest;
using testing::fill_random;
using testing::logits_of;
using testing::near;
using testing::random_batch;

/// Bytes that a cache keeps alive beyond its keys and values.
size_t bytes_beside(const KvCache& cache) {
  size_t bytes = 0;
  for (const SequenceKvCache& sequence : cache.sequences) {
    for (const LayerKvCache& layer : sequence.layers) {
      for (const at::Tensor& kept : {layer.keys, layer.values}) {
        if (kept.defined()) bytes += kept.storage().nbytes() - kept.nbytes();
      }
    }
  }
  return bytes;
}

TEST_P(DecoderTest, CachedLogitsEqualThoseOfTheWholeSequence) {
  const Decoder model = decoder(at::kFloat);
  const TokenBatch batch = random_batch({12}, 61, 2);
  const at::Tensor whole = logits_of(model, batch);
  KvCache cache;
  const auto part = [&](int64_t first, int64_t count) {
    return TokenBatch{batch.tokens_T.narrow(0, first, count), {0, count}};
  };
  EXPECT_TRUE(near(logits_of(model, part(0, 6), &cache), whole.narrow(0, 0, 6), 1e-5));
  for (int64_t t = 6; t < 12; ++t)
    EXPECT_TRUE(near(logits_of(model, part(t, 1), &cache), whole.narrow(0, t, 1), 1e-5)) << t;
}

TEST_P(DecoderTest, CachedLogitsOfAWindowEqualThoseOfTheWholeSequence) {
  ModelConfig config = config_of(GetParam());
  config.attention_window = 3;
  Decoder model(config, at::kFloat, {0, 4});
  fill_random(model, 7);
  const TokenBatch batch = random_batch({12}, 61, 2);
  const at::Tensor whole = logits_of(model, batch);
  EXPECT_FALSE(near(whole, logits_of(decoder(at::kFloat), batch), 1e-3)) << "the window must do something";
  KvCache cache;
  const auto part = [&](int64_t first, int64_t count) {
    return TokenBatch{batch.tokens_T.narrow(0, first, count), {0, count}};
  };
  EXPECT_TRUE(near(logits_of(model, part(0, 6), &cache), whole.narrow(0, 0, 6), 1e-5));
  EXPECT_EQ(bytes_beside(cache), 0) << "rows before the window";
  for (int64_t t = 6; t < 12; ++t)
    EXPECT_TRUE(near(logits_of(model, part(t, 1), &cache), whole.narrow(0, t, 1), 1e-5)) << t;
  EXPECT_EQ(bytes_beside(cache), 0) << "rows before the window";
  EXPECT_EQ(cache.sequences[0].layers[0].keys.size(0), 3) << "keys that no later query sees are dropped";
  EXPECT_EQ(cache.sequences[0].tokens, 12) << "positions go on beyond the window";
}

// A prompt in chunks longer and shorter than the window, then a token.
TEST_P(DecoderTest, LogitsOfChunksEqualThoseOfTheWholeSequence) {
  for (const int64_t window : {0, 3}) {
    ModelConfig config = config_of(GetParam());
    if (window > 0) config.attention_window = window;
    Decoder model(config, at::kDouble, {0, 4});
    fill_random(model, 7);
    const TokenBatch batch = random_batch({17}, 61, 2);
    const at::Tensor whole = logits_of(model, batch);
    KvCache cache;
    int64_t done = 0;
    for (const int64_t chunk : {4, 2, 7, 3, 1}) {
      const at::Tensor logits = logits_of(model, {batch.tokens_T.narrow(0, done, chunk), {0, chunk}}, &cache);
      EXPECT_TRUE(near(logits, whole.narrow(0, done, chunk), 1e-12)) << "window " << window << ", after " << done;
      EXPECT_EQ(bytes_beside(cache), 0);
      done += chunk;
      EXPECT_EQ(cache.sequences[0].layers[0].keys.size(0), window > 0 ? window : done);
    }
    EXPECT_EQ(done, 17);
  }
}

/// The next tokens of several sequences, as a batch.
TokenBatch continuation(const std::vector<std::vector<int64_t>>& tokens) {
  std::vector<int64_t> all, cu_seqlens{0};
  for (const std::vector<int64_t>& own : tokens) {
    all.insert(all.end(), own.begin(), own.end());
    cu_seqlens.push_back(static_cast<int64_t>(all.size()));
  }
  return {at::tensor(all, at::kLong), cu_seqlens};
}

// Prompts of several lengths together, then a token each: a sequence waits, one forks, one leaves, one begins. The
// logits of every step are, bit for bit, those of each sequence with a cache of its own.
TEST_P(DecoderTest, SequencesOfACacheAreContinuedTogetherAsAlone) {
  const Decoder model = decoder(at::kFloat);
  KvCache together;
  std::vector<KvCache> alone(4);
  int64_t differ = 0;
  const auto step = [&](const std::vector<size_t>& who, const std::vector<std::vector<int64_t>>& tokens) {
    const TokenBatch batch = continuation(tokens);
    const at::Tensor logits = logits_of(model, batch, &together);
    EXPECT_EQ(bytes_beside(together), 0) << "rows of the batch's other sequences";
    for (size_t i = 0; i < who.size(); ++i) {
      if (tokens[i].empty()) continue;
      const at::Tensor own = logits_of(model, continuation({tokens[i]}), &alone[who[i]]);
      differ += testing::rows_that_differ(own, logits.slice(0, batch.cu_seqlens[i], batch.cu_seqlens[i + 1]));
    }
  };
  step({0, 1, 2}, {{5, 17, 3, 40, 8}, {60}, {2, 9, 33, 12, 12, 4, 7}});
  step({0, 1, 2}, {{11}, {12}, {13}});
  step({0, 1, 2}, {{14}, {}, {15}});
  together.sequences.erase(together.sequences.begin() + 1);
  together.sequences.push_back(together.sequences[0]);
  alone[3] = alone[0];
  step({0, 2, 3}, {{21}, {22}, {23}});
  together.sequences.emplace_back();
  alone[1] = {};
  step({0, 2, 3, 1}, {{31}, {32}, {}, {33, 34}});
  EXPECT_EQ(differ, 0);
  EXPECT_THROW(logits_of(model, continuation({{1}}), &together), Internal) << "one sequence for four";
}

}  // namespace
}  // namespace moe
