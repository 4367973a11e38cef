// A mixture learns a few conversations by heart.
#include <gtest/gtest.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/file_io.h"
#include "data/tokenizer/tokenizer.h"
#include "model/moe/token_dispatcher.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace moe {
namespace {

/// llama-moe-v2 H1, of four conversations where the specification has 32.
TEST(OverfitTest, FourConversationsAreLearnedByHeart) {
  const testing::TempDir folder;
  const char* const chats[][2] = {{"Two and two?", "Four."},
                                  {"The sky at noon?", "Blue, and bright."},
                                  {"Who has wings?", "A bird."},
                                  {"Where is the sea?", "Behind the hills, to the west."}};
  std::string lines;
  for (const auto& [question, answer] : chats) {
    nlohmann::json line;
    line["messages"].push_back({{"role", "user"}, {"content", question}});
    line["messages"].push_back({{"role", "assistant"}, {"content", answer}});
    lines += line.dump() + "\n";
  }
  write_file_atomically(folder / "chats.jsonl", lines);
  PackingOptions packing;
  packing.sequence_length = 128;
  packing.shuffle = false;
  packing.vocab_size = 4096;
  DataLoader loader({{(folder / "chats.jsonl").string(), 1, "chats", 0}},
                    Tokenizer::from_directory(MOE_SOURCE_DIR "/examples/base-7m"), packing);

  ModelConfig config = testing::tiny_moe_config(/*num_experts=*/4, /*top_k=*/2, /*expert_width=*/12);
  config.vocab_size = packing.vocab_size;
  Decoder decoder(config, at::kFloat, {0, 4});
  testing::fill_random(decoder, 7);
  testing::require_all_gradients(decoder);
  const auto self = make_self_communicator();
  Mesh mesh(*self, 1);
  LocalDispatcher dispatcher;
  AdamW optimizer(decoder.parameters(), {});
  const int64_t rows = loader.rows();
  ASSERT_GT(loader.target_tokens(0, rows), 12);
  double first = 0, loss = 0;
  int64_t step = 1;
  for (; step <= 200; ++step) {
    loss = compute_gradients(decoder, dispatcher, mesh, loader, 0, {.micro_batch_rows = rows}).loss;
    if (step == 1) first = loss;
    if (loss < 0.1) break;
    optimizer.update(1e-2, 1, step);
    optimizer.zero_gradients();
  }
  std::cout << loader.target_tokens(0, rows) << " of " << loader.tokens(0, rows) << " tokens: loss " << first << ", "
            << loss << " after " << step << " steps\n";
  EXPECT_GT(first, 5);
  EXPECT_LT(loss, 0.1);
}

}  // namespace
}  // namespace moe
