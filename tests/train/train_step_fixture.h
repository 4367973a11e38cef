#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "data/data_loader.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"
#include "train/train_step.h"

namespace moe::testing {

struct StepRun {
  StepOutcome outcome;
  double gradient_norm = 0;
  std::map<std::string, at::Tensor> gradients;  ///< by logical name
};

/// Top-2 of 8 experts in both layers.
inline const ModelConfig kMoe = tiny_moe_config(/*num_experts=*/8, /*top_k=*/2, /*expert_width=*/11);

/// Gradients of one step over random documents or chats, in double.
class TrainStepTest : public ::testing::Test {
 protected:
  void SetUp() override;

  /// Rows of random ids, in which every input has a target; or of chats, in which answers alone do.
  DataLoader loader() const;

  /// On so many ranks, which must have the same gradients.
  StepRun run(const ModelConfig& config, int ranks, int expert_parallel, const StepOptions& options,
              int64_t first_row = 3) const;

  static void expect_equal(const StepRun& a, const StepRun& b);

  /// Of one rank, token by token. `mixtures`: layers of the config that are.
  void expect_naive_computation(const ModelConfig& config, int64_t mixtures = 2) const;

  /// kMoe for the chats' tokens.
  static ModelConfig chat_config();

  static constexpr uint64_t kSeed = 7;
  static constexpr int64_t kChatVocabulary = 4096;
  TempDir folder_;
  bool is_chats_ = false;
  std::function<void(Decoder&)> change_{};  ///< of the model before run()'s step; may be empty
};

}  // namespace moe::testing
