// Trainings of models whose attention is experts, alone or beside a mixture: killed and resumed, moved to other
// layouts, balanced, and what they tell.
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "model/tensor_id.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

ModelConfig beside_a_mixture() {
  return testing::with_attention_experts(testing::tiny_moe_config(4, 2, 12), 4, 2);
}

TEST(AttentionTrainingTest, KilledOnTwoRanksItResumesBitForBit) {
  const TinyTraining training;
  training.set_model(beside_a_mixture());
  training.expect_resumes_bit_for_bit();
}

TEST(AttentionTrainingTest, ResumesAtAnotherLayout) {
  const TinyTraining training("float64");
  training.set_model(testing::with_attention_experts(testing::tiny_config(), 4, 2, 1));
  training.expect_moves_between_layouts(4);
  for (const json& line : training.lines({.job = "moved", .attempt = 4})) {
    EXPECT_TRUE(line.contains("attention_expert_load"));
    EXPECT_FALSE(line.contains("expert_load")) << "its FFNs are dense";
  }
}

TEST(AttentionTrainingTest, TellsLoadAndBalanceOfAttentionApart) {
  TinyTraining training;
  training.set_model(beside_a_mixture());
  training.spec.set_balance_loss(0.25);
  training.spec.set_attention_balance_loss(0.5);
  std::vector<StepRecord> records;
  const Options options{.progress = [&](const StepRecord& at) { records.push_back(at); }};
  const std::optional<TrainOutcome> outcome = training.run(options);
  ASSERT_TRUE(outcome);
  for (const StepRecord& record : records) {
    const double balance = record.statistics.at("balance_loss"),
                 of_attention = record.statistics.at("attention_balance_loss");
    EXPECT_NEAR(record.total_loss, record.loss + 0.25 * balance + 0.5 * of_attention, 1e-12);
    ASSERT_EQ(record.attention_expert_load.size(), 2U);
    int64_t pairs = 0;
    for (const int64_t count : record.attention_expert_load[1]) pairs += count;
    EXPECT_EQ(pairs, 2 * record.step_tokens) << "top-2";
    EXPECT_GT(record.statistics.at("attention_router_entropy"), 0);
  }
  EXPECT_EQ(training.lines(options).back()["attention_balance_loss"], outcome->metrics.at("attention_balance_loss"));
  EXPECT_EQ(outcome->metrics.at("attention_dead_expert_fraction"), 0);
  EXPECT_GE(outcome->metrics.at("attention_load_max_over_mean"), 1);
  EXPECT_EQ(outcome->details["attention_expert_load"].size(), 2U);
  EXPECT_EQ(outcome->details["expert_load"].size(), 2U);
}

TEST(AttentionTrainingTest, SelectionBiasesAreAddedToAttentionsRoutersAndMoved) {
  TinyTraining training;
  training.set_model(testing::with_attention_experts(testing::tiny_config(), 4, 1));
  training.spec.set_balance("selection_bias");
  training.spec.set_selection_bias_rate(0.125);
  const Options options{.ranks = 2, .expert_parallel = 2};
  ASSERT_TRUE(training.run(options));
  const ModelDirectory trained(training.output(options));
  ASSERT_TRUE(trained.config().moe->attention->has_selection_bias);
  EXPECT_FALSE(trained.config().moe->has_selection_bias) << "its FFNs have no routers";
  const at::Tensor bias = trained.tensor("model.layers.0.self_attn.router.selection_bias");
  EXPECT_EQ(bias.sizes(), (std::vector<int64_t>{4}));
  EXPECT_GT(testing::max_abs(bias), 0.05);
  EXPECT_NEAR(bias.sum().item<double>(), 0, 1e-6) << "recentred";
}

}  // namespace
}  // namespace moe
