// Tiny models learn conversations by heart.
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
#include "testing/random_tensor.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/train_step.h"

namespace moe {
namespace {

/// A question to each of 32 things, and how far a model has the answers by heart.
class OverfitTest : public ::testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 4096;
  static constexpr int kConversations = 32;

  OverfitTest() {
    const char* const things[] = {"sea", "hill", "bird", "dog", "house", "tree", "sun", "moon"};
    const char* const questions[] = {"Where is the", "Who saw the", "How big is the", "What is the"};
    const char* const answers[] = {"Far away.", "My friend.", "Very small.", "A secret, and no one tells it."};
    std::string lines;
    for (int i = 0; i < kConversations; ++i) {
      const std::string question = std::string(questions[i / 8]) + " " + things[i % 8] + "?";
      nlohmann::json line;
      line["messages"].push_back({{"role", "user"}, {"content", question}});
      line["messages"].push_back({{"role", "assistant"}, {"content", answers[(i * 5 + i / 8) % 4]}});
      lines += line.dump() + "\n";
    }
    write_file_atomically(folder_ / "chats.jsonl", lines);
  }

  static ModelConfig with_vocabulary(ModelConfig config) {
    config.vocab_size = kVocabulary;
    return config;
  }

  /// Losses before each step, until they are below `least` or `most` steps are made.
  std::vector<double> train(Decoder& decoder, double least, size_t most = 400) const {
    PackingOptions packing;
    packing.sequence_length = 128;
    packing.shuffle = false;
    packing.vocab_size = kVocabulary;
    DataLoader loader({{(folder_ / "chats.jsonl").string(), 1, "chats", 0}},
                      Tokenizer::from_directory(testing::source_dir() + "/examples/base-7m"), packing);
    EXPECT_GT(loader.target_tokens(0, loader.rows()), 3 * kConversations);
    testing::require_all_gradients(decoder);
    const auto self = make_self_communicator();
    Mesh mesh(*self, 1);
    LocalDispatcher dispatcher;
    AdamW optimizer(decoder.parameters(), {});
    std::vector<double> losses;
    while (losses.size() < most) {
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

/// llama-moe-v2 H1 and llama-moe-v1 T17 (i): a mixture learns them; one cut at random out of a dense model that has
/// learned them begins below a random one, and stays below it step by step.
TEST_F(OverfitTest, ConversationsAreLearnedByHeart) {
  constexpr int64_t kExperts = 4, kWidth = 12;
  const ModelConfig dense_config = with_vocabulary(testing::tiny_config());
  ModelConfig config = with_vocabulary(testing::tiny_moe_config(kExperts, /*top_k=*/2, kWidth));
  config.moe->output_scale.assign(2, 2);  // each of the two chosen at a weight of about 1
  Decoder random = testing::random_decoder(config, at::kFloat);
  const std::vector<double> losses = train(random, 0.1);
  EXPECT_GT(losses.front(), 5);
  EXPECT_LT(losses.back(), 0.1);

  Decoder dense = testing::random_decoder(dense_config, at::kFloat);
  EXPECT_LT(train(dense, 0.1).back(), 0.1);
  std::map<TensorId, at::Tensor> learned;
  for (const Parameter& parameter : dense.parameters()) learned[parameter.id] = parameter.value.detach();
  const at::Tensor lot = testing::random_normal({kExperts * kWidth}, 5).argsort();
  Decoder cut = testing::random_decoder(config, at::kFloat);
  {
    const at::NoGradGuard no_grad;
    for (const Parameter& parameter : cut.parameters()) {
      const int64_t layer = parameter.id.layer;
      if (learned.contains(parameter.id)) {
        parameter.value.copy_(learned.at(parameter.id));
        continue;
      }
      for (int64_t e = 0; e < kExperts; ++e) {
        const at::Tensor neurons = lot.narrow(0, kWidth * e, kWidth);
        const auto rows = [&](TensorPart part) { return learned.at({part, layer}).index_select(0, neurons); };
        if (parameter.id.part == TensorPart::kGateUp) {
          parameter.value[e].copy_(at::cat({rows(TensorPart::kGate), rows(TensorPart::kUp)}));
        } else if (parameter.id.part == TensorPart::kDown) {
          parameter.value[e].copy_(learned.at({TensorPart::kDown, layer}).index_select(1, neurons));
        }
      }
    }
  }
  const std::vector<double> of_cut = train(cut, 0, 20);
  EXPECT_LT(of_cut.front(), 0.8 * losses.front());
  ASSERT_GE(losses.size(), of_cut.size());
  for (size_t step = 0; step < of_cut.size(); ++step) EXPECT_LT(of_cut[step], losses[step]) << "step " << step;
}

}  // namespace
}  // namespace moe
