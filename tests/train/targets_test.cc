// What has no target, and what rows leave empty: it has no share in a step's loss, and no number of a step is another
// for it.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "data/tokenizer/tokenizer.h"
#include "model/moe/token_dispatcher.h"
#include "testing/compare.h"
#include "testing/paths.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/train_step.h"

namespace moe {
namespace {

constexpr uint64_t kSeed = 7;

struct Step {
  StepOutcome outcome;
  std::map<std::string, at::Tensor> gradients;
};

ModelConfig mixture(int64_t vocab_size) {
  ModelConfig config = testing::tiny_moe_config(/*num_experts=*/8, /*top_k=*/2, /*expert_width=*/11);
  config.vocab_size = vocab_size;
  return config;
}

/// Of a fresh model in double on one rank.
Step step_of(DataLoader& loader, int64_t vocab_size, int64_t first_row, const StepOptions& options) {
  const auto self = make_self_communicator();
  Mesh mesh(*self, 1);
  LocalDispatcher dispatcher;
  Decoder decoder(mixture(vocab_size), at::kDouble, {0, 8});
  testing::fill_random(decoder, kSeed);
  testing::require_all_gradients(decoder);
  Step step{compute_gradients(decoder, dispatcher, mesh, loader, first_row, options), {}};
  for (const Parameter& parameter : decoder.parameters()) {
    const at::Tensor& gradient = parameter.value.grad();
    step.gradients[parameter.name] = gradient.defined() ? gradient : at::zeros_like(parameter.value);
  }
  return step;
}

/// llama-moe-v2 D5: here nothing is padded, so what would be padding is what a row has less than it may have.
TEST(TargetsTest, RowsShorterThanTheSequenceChangeNothing) {
  const testing::TempDir folder;
  // No two of them fit into 64 tokens.
  testing::write_random_documents(folder / "d.jsonl", 20, 34, 41, 61, kSeed);
  const auto step = [&](int64_t sequence_length) {
    PackingOptions packing;
    packing.sequence_length = sequence_length;
    packing.seed = kSeed;
    packing.vocab_size = 61;
    DataLoader loader({{(folder / "d.jsonl").string(), 1, "d", 0}}, nullptr, packing);
    return step_of(loader, 61, 2, {.micro_batch_rows = 3, .micro_steps = 2, .balance_loss = 0.1});
  };
  const Step full = step(40);
  EXPECT_LT(full.outcome.tokens, 6 * 40);
  for (const int64_t sequence_length : {48, 64}) {
    const Step padded = step(sequence_length);
    EXPECT_EQ(padded.outcome.loss, full.outcome.loss);
    EXPECT_EQ(padded.outcome.balance_loss, full.outcome.balance_loss);
    EXPECT_EQ(padded.outcome.expert_load, full.outcome.expert_load);
    EXPECT_EQ(padded.outcome.tokens, full.outcome.tokens);
    for (const auto& [name, gradient] : full.gradients)
      EXPECT_TRUE(at::equal(padded.gradients.at(name), gradient)) << name;
  }
}

/// Chats, whose questions are no targets.
class ChatTargetsTest : public ::testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 4096;

  static DataLoader loader(const char* supervise, const char* long_chats, int64_t sequence_length) {
    static const auto tokenizer = Tokenizer::from_directory(testing::source_dir() + "/examples/base-7m");
    PackingOptions packing;
    packing.sequence_length = sequence_length;
    packing.shuffle = false;
    packing.vocab_size = kVocabulary;
    packing.long_chats = long_chats;
    packing.chat.supervise = supervise;
    return DataLoader({{testing::source_dir() + "/examples/data/maths.valid.jsonl", 1, "chats", 30}}, tokenizer,
                      packing);
  }
};

/// llama-moe-v2 D5: tokens without a target are routed and balanced as all others, and the loss is the mean over those
/// that have one.
TEST_F(ChatTargetsTest, MasksChangeTheLossAlone) {
  const StepOptions options{.micro_batch_rows = 2, .micro_steps = 1, .balance_loss = 0.1};
  DataLoader answers = loader("all", "drop", 256), everything = loader("whole", "drop", 256);
  const PackedBatch masked = answers.batch(1, 2), whole = everything.batch(1, 2);
  ASSERT_TRUE(at::equal(masked.tokens_T, whole.tokens_T));
  const at::Tensor has_target = masked.labels_T.ne(-100);
  ASSERT_LT(has_target.sum().item<int64_t>(), whole.labels_T.ne(-100).sum().item<int64_t>());

  const Step of_answers = step_of(answers, kVocabulary, 1, options),
             of_everything = step_of(everything, kVocabulary, 1, options);
  EXPECT_EQ(of_answers.outcome.balance_loss, of_everything.outcome.balance_loss);
  EXPECT_EQ(of_answers.outcome.expert_load, of_everything.outcome.expert_load);
  EXPECT_EQ(of_answers.outcome.tokens, of_everything.outcome.tokens);

  const at::NoGradGuard no_grad;
  Decoder decoder(mixture(kVocabulary), at::kDouble, {0, 8});
  testing::fill_random(decoder, kSeed);
  LocalDispatcher dispatcher;
  const at::Tensor losses =
      decoder.token_losses(decoder.forward({whole.tokens_T, whole.cu_seqlens}, dispatcher).hidden_TD, whole.labels_T);
  EXPECT_NEAR(of_answers.outcome.loss, losses.masked_select(has_target).mean().item<double>(), 1e-12);
  EXPECT_GT(std::abs(of_answers.outcome.loss - of_everything.outcome.loss), 1e-6);
}

/// llama-moe-v2 E2: what has no target at all, the piece of a question, is in no row, so that no micro-batch and no
/// step is without. (What the model makes of such: DecoderGradientTest.SequencesWithoutTargetsCountForNothing.)
TEST_F(ChatTargetsTest, PiecesWithoutTargetsAreInNoRow) {
  DataLoader answers = loader("all", "split", 48), everything = loader("whole", "split", 48);
  ASSERT_GT(answers.rows(), 5);
  EXPECT_LT(answers.tokens(0, answers.rows()), everything.tokens(0, everything.rows())) << "there are no such pieces";
  const PackedBatch all = answers.batch(0, answers.rows());
  for (size_t s = 0; s + 1 < all.cu_seqlens.size(); ++s)
    EXPECT_TRUE(all.labels_T.slice(0, all.cu_seqlens[s], all.cu_seqlens[s + 1]).ne(-100).any().item<bool>()) << s;
  // Of 48 tokens, all of them of the question, nothing is left.
  EXPECT_THROW(loader("all", "truncate", 48), InvalidArgument);
}

}  // namespace
}  // namespace moe
