// Tiny models learn a few conversations by heart.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "data/tokenizer/tokenizer.h"
#include "model/moe/token_dispatcher.h"
#include "testing/paths.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace moe {
namespace {

/// Four conversations where the specification has 32, and how far a model has them by heart.
class OverfitTest : public ::testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 4096;

  OverfitTest() {
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
    write_file_atomically(folder_ / "chats.jsonl", lines);
  }

  static ModelConfig with_vocabulary(ModelConfig config) {
    config.vocab_size = kVocabulary;
    return config;
  }

  /// Losses before each step, until they are below `least` or 200 steps are made.
  std::vector<double> train(Decoder& decoder, double least) const {
    PackingOptions packing;
    packing.sequence_length = 128;
    packing.shuffle = false;
    packing.vocab_size = kVocabulary;
    DataLoader loader({{(folder_ / "chats.jsonl").string(), 1, "chats", 0}},
                      Tokenizer::from_directory(testing::source_dir() + "/examples/base-7m"), packing);
    EXPECT_GT(loader.target_tokens(0, loader.rows()), 12);
    testing::require_all_gradients(decoder);
    const auto self = make_self_communicator();
    Mesh mesh(*self, 1);
    LocalDispatcher dispatcher;
    AdamW optimizer(decoder.parameters(), {});
    std::vector<double> losses;
    while (losses.size() < 200) {
      losses.push_back(
          compute_gradients(decoder, dispatcher, mesh, loader, 0, {.micro_batch_rows = loader.rows()}).loss);
      if (losses.back() < least) break;
      optimizer.update(1e-2, 1, static_cast<int64_t>(losses.size()));
      optimizer.zero_gradients();
    }
    std::cout << "loss " << losses.front() << ", " << losses.back() << " after " << losses.size() - 1 << " steps\n";
    return losses;
  }

  testing::TempDir folder_;
};

/// llama-moe-v2 H1: a mixture learns them, and one made of a dense model that has learned them begins below a random
/// one.
TEST_F(OverfitTest, ConversationsAreLearnedByHeart) {
  const ModelConfig dense_config = with_vocabulary(testing::tiny_config());
  ModelConfig config = with_vocabulary(testing::tiny_moe_config(/*num_experts=*/4, /*top_k=*/2, /*expert_width=*/12));
  config.moe->output_scale.assign(2, 2);  // each of the two chosen at a weight of about 1
  Decoder random = testing::random_decoder(config, at::kFloat);
  const std::vector<double> losses = train(random, 0.1);
  EXPECT_GT(losses.front(), 5);
  EXPECT_LT(losses.back(), 0.1);

  Decoder dense = testing::random_decoder(dense_config, at::kFloat);
  EXPECT_LT(train(dense, 0.1).back(), 0.1);
  std::map<TensorId, at::Tensor> learned;
  for (const Parameter& parameter : dense.parameters()) learned[parameter.id] = parameter.value.detach();
  Decoder cut = testing::random_decoder(config, at::kFloat);
  {
    const at::NoGradGuard no_grad;
    for (const Parameter& parameter : cut.parameters()) {
      const int64_t layer = parameter.id.layer;
      if (learned.contains(parameter.id)) {
        parameter.value.copy_(learned.at(parameter.id));
      } else if (parameter.id.part == TensorPart::kGateUp) {
        for (int64_t e = 0; e < 4; ++e) {
          parameter.value[e].narrow(0, 0, 12).copy_(learned.at({TensorPart::kGate, layer}).narrow(0, 12 * e, 12));
          parameter.value[e].narrow(0, 12, 12).copy_(learned.at({TensorPart::kUp, layer}).narrow(0, 12 * e, 12));
        }
      } else if (parameter.id.part == TensorPart::kDown) {
        for (int64_t e = 0; e < 4; ++e)
          parameter.value[e].copy_(learned.at({TensorPart::kDown, layer}).narrow(1, 12 * e, 12));
      }
    }
  }
  EXPECT_LT(train(cut, 1e9).front(), 0.8 * losses.front());
}

}  // namespace
}  // namespace moe
