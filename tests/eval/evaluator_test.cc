#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "eval/eval_fixture.h"
#include "eval/eval_tasks.h"
#include "testing/sentencepiece_writer.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "testing/work_log.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// Letters and the space mark, one piece each, behind unk, BOS and EOS.
std::string letters_tokenizer(const std::string& letters) {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown},
                  {"<s>", 0, PieceType::kControl},
                  {"</s>", 0, PieceType::kControl},
                  {"\u2581", -1}};
  for (const char letter : letters) model.pieces.push_back({std::string(1, letter), -2});
  return testing::write_sentencepiece_model(model);
}

class EvaluatorTest : public testing::EvaluationTest {
 protected:
  EvaluatorTest() { spec_.add_tasks("perplexity"); }

  static const json& perplexity_of(const json& measured) { return measured["tasks"]["perplexity"]; }
};

TEST_F(EvaluatorTest, ComparesWithTheBaselineOnTheSameTokens) {
  const json evaluation = run("moe", "dense");
  const json &result = perplexity_of(evaluation), &baseline = perplexity_of(evaluation["baseline"]);
  EXPECT_EQ(result["tokens"], baseline["tokens"]);
  EXPECT_NE(result["loss"], baseline["loss"]);
  EXPECT_DOUBLE_EQ(result["perplexity"], std::exp(result["loss"].get<double>()));
  EXPECT_DOUBLE_EQ(result["loss_ratio_to_baseline"], result["loss"].get<double>() / baseline["loss"].get<double>());
  double sum = 0;
  for (const char* domain : {"a", "b"}) {
    const json& mine = result["domains"][domain];
    sum += mine["loss"].get<double>() * mine["tokens"].get<double>();
    EXPECT_DOUBLE_EQ(mine["loss_ratio_to_baseline"],
                     mine["loss"].get<double>() / baseline["domains"][domain]["loss"].get<double>());
  }
  EXPECT_NEAR(result["loss"].get<double>(), sum / result["tokens"].get<double>(), 1e-12);
  EXPECT_EQ(result["expert_load"].size(), 2U);
  EXPECT_TRUE(result.contains("dead_expert_fraction"));
  EXPECT_FALSE(baseline.contains("expert_load")) << "it is dense";
}

TEST_F(EvaluatorTest, ModelAndBaselineAreOneProgress) {
  for (const bool has_baseline : {false, true}) {
    testing::WorkLog log;
    run("moe", has_baseline ? "dense" : "", 1, 1, log);
    const std::vector<WorkProgress>& told = log.told();
    ASSERT_GT(told.size(), 1U);
    for (size_t i = 0; i < told.size(); ++i) {
      EXPECT_EQ(told[i].all, told.back().all);
      EXPECT_GT(told[i].done, i == 0 ? 0 : told[i - 1].done) << "it began again";
      EXPECT_EQ(told[i].phase + " " + told[i].unit, "evaluating row");
    }
    EXPECT_EQ(told.back().done, told.back().all);
    EXPECT_EQ(log.read().size(), 2U) << "files";
  }
}

TEST_F(EvaluatorTest, AModelIsAsGoodAsItself) {
  const json result = perplexity_of(run("moe", "moe"));
  EXPECT_EQ(result["loss_ratio_to_baseline"], 1.0);
}

TEST_F(EvaluatorTest, SameOnEveryLayoutOfRanks) {
  const json single = perplexity_of(run("moe", "dense"));
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 2}, {4, 2}, {4, 1}}) {
    const json evaluation = run("moe", "dense", ranks, expert_parallel);
    const json& spread = perplexity_of(evaluation);
    EXPECT_NEAR(spread["loss"].get<double>() / single["loss"].get<double>(), 1, 1e-12);
    EXPECT_NEAR(spread["loss_ratio_to_baseline"].get<double>() / single["loss_ratio_to_baseline"].get<double>(), 1,
                1e-12);
    EXPECT_EQ(spread["expert_load"], single["expert_load"]);
    EXPECT_EQ(spread["tokens"], single["tokens"]);
  }
}

TEST_F(EvaluatorTest, TheModelSetsTheRowLengthOfBoth) {
  ModelConfig long_rows = testing::tiny_config();
  long_rows.max_positions = 4 * long_rows.max_positions;
  long_rows.source["max_position_embeddings"] = long_rows.max_positions;
  testing::write_tiny_model(folder_ / "long", long_rows, 1, at::kFloat);
  testing::write_random_documents(folder_ / "a.jsonl", 20, 100, 120, 61, 1);
  // The same weights: only a row length of its own would give the baseline another loss.
  const json result = run("dense", "long");
  EXPECT_EQ(perplexity_of(result)["loss"], perplexity_of(result["baseline"])["loss"]);
}

TEST_F(EvaluatorTest, ABaselineWithAnotherTokenizerIsRefused) {
  write_file_atomically(folder_ / "moe/tokenizer.model", letters_tokenizer("abcdefghijklmnopqrstuvwxyz"));
  write_file_atomically(folder_ / "dense/tokenizer.model", letters_tokenizer("zyxwvutsrqponmlkjihgfedcba"));
  write_file_atomically(folder_ / "a.jsonl", "{\"text\": \"the old man and the sea\"}\n");
  EXPECT_EQ(perplexity_of(run("moe"))["domains"]["a"]["tokens"], 25) << "a dummy space, 23 letters, EOS; BOS is given";
  try {
    run("moe", "dense", 2);
    FAIL() << "losses of different tokens were compared";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("another tokenizer"));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
  }
}

TEST_F(EvaluatorTest, ErrorsOfTheDataAreKnownToAllRanks) {
  write_file_atomically(folder_ / "b.jsonl", "{\"ids\": [1, 2, 3]}\nnot json\n");
  try {
    run("moe", "", 2, 2);
    FAIL() << "a malformed line was accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("b.jsonl:2"));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
  }
}

TEST_F(EvaluatorTest, RowsLongerThanTheModelAllowsAreRefused) {
  spec_.set_sequence_length(65);
  EXPECT_THAT([&] { run("moe"); },
              ThrowsMessage<InvalidArgument>(::testing::AllOf(HasSubstr("sequence_length 65"), HasSubstr("64"))));
}

TEST(EvalTasksTest, AnUnknownTaskListsTheKnown) {
  EXPECT_THAT(eval_tasks().names(), ::testing::Contains("perplexity"));
  EXPECT_THAT([&] { eval_tasks().at("mmlu"); },
              ThrowsMessage<InvalidArgument>(::testing::AllOf(HasSubstr("mmlu"), HasSubstr("perplexity"))));
}

}  // namespace
}  // namespace moe
