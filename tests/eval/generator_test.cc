#include "eval/generator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eval/scorer.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

/// A tiny mixture with random weights, scored and continued; the reference is a full forward pass for every token.
class GeneratorTest : public ::testing::Test {
 protected:
  static LoadedModel tiny(const ModelConfig& config = testing::tiny_moe_config(4, 2, 12)) {
    const testing::TempDir folder;
    testing::write_tiny_model(folder / "moe", config, 5, at::kFloat);
    return load_model(open_model(folder / "moe"));
  }
  /// Log-probabilities of what follows `ids`, in double. [V]
  at::Tensor next_log_p(const std::vector<int32_t>& ids) const {
    const at::Tensor all = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong);
    return at::log_softmax(sequence_logits(model_, all).select(0, -1).to(at::kDouble), 0);
  }

  const LoadedModel model_ = tiny();
  const std::vector<int32_t> prompt_{1, 17, 44};
};

TEST_F(GeneratorTest, GreedyTokensAreTheMostLikelyOnes) {
  std::vector<int32_t> ids = prompt_, heard;
  const std::vector<int32_t> made =
      generate(model_, prompt_, {.max_tokens = 12}, [&](int32_t id) { heard.push_back(id); });
  ASSERT_EQ(made.size(), 12U);
  EXPECT_EQ(heard, made);
  for (const int32_t id : made) {
    EXPECT_EQ(id, next_log_p(ids).argmax().item<int64_t>());
    ids.push_back(id);
  }
}

TEST_F(GeneratorTest, AttentionExpertsContinueWhatTheyScore) {
  const LoadedModel model = tiny(testing::with_attention_experts(testing::tiny_config(), 4, 2));
  std::vector<int64_t> ids(prompt_.begin(), prompt_.end());
  const std::vector<int32_t> made = generate(model, prompt_, {.max_tokens = 12});
  ASSERT_EQ(made.size(), 12U);
  for (const int32_t id : made) {
    EXPECT_EQ(id, sequence_logits(model, at::tensor(ids, at::kLong)).select(0, -1).argmax().item<int64_t>());
    ids.push_back(id);
  }
}

TEST_F(GeneratorTest, StopsAreNotSaid) {
  const std::vector<int32_t> all = generate(model_, prompt_, {.max_tokens = 12});
  const auto stop = std::find(all.begin(), all.end(), all[6]);
  EXPECT_EQ(generate(model_, prompt_, {.max_tokens = 12, .stops = {all[6]}}), std::vector<int32_t>(all.begin(), stop));
}

TEST_F(GeneratorTest, EndsWhereThePositionsEnd) {
  const int64_t positions = model_.config().max_positions;
  const std::vector<int32_t> made = generate(model_, prompt_, {.max_tokens = 10 * positions});
  // The last one is only predicted: it needs no position.
  EXPECT_EQ(static_cast<int64_t>(prompt_.size() + made.size()), positions + 1);
}

TEST_F(GeneratorTest, DrawsFollowTheSeedAndTheTemperature) {
  const GenerationOptions warm{.max_tokens = 20, .temperature = 1.5, .seed = 3};
  GenerationOptions other = warm;
  other.seed = 4;
  EXPECT_EQ(generate(model_, prompt_, warm), generate(model_, prompt_, warm));
  EXPECT_NE(generate(model_, prompt_, warm), generate(model_, prompt_, other));
  // First tokens of many draws: their share is softmax(logits / T), within four standard deviations.
  const at::Tensor p = at::softmax(next_log_p(prompt_) / warm.temperature, 0);
  const int64_t likely = p.argmax().item<int64_t>();
  constexpr int kDraws = 400;
  int hits = 0;
  for (int seed = 0; seed < kDraws; ++seed) {
    hits += generate(model_, prompt_, {.max_tokens = 1, .temperature = 1.5, .seed = static_cast<uint64_t>(seed)})[0] ==
            likely;
  }
  const double share = p[likely].item<double>();
  EXPECT_NEAR(hits, kDraws * share, 4 * std::sqrt(kDraws * share * (1 - share)));
}

TEST_F(GeneratorTest, ScoresAreThoseOfEachTokenAfterTheOnesBefore) {
  const std::vector<int32_t> ids{1, 5, 60, 33, 2, 8};
  const std::vector<float> scores = log_probabilities(model_, ids);
  ASSERT_EQ(scores.size(), ids.size() - 1);
  for (size_t i = 1; i < ids.size(); ++i) {
    EXPECT_NEAR(scores[i - 1], next_log_p({ids.begin(), ids.begin() + static_cast<int64_t>(i)})[ids[i]].item<double>(),
                1e-5);
  }
  EXPECT_TRUE(log_probabilities(model_, {7}).empty());
}

}  // namespace
}  // namespace moe
