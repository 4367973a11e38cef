// Trainings of mixtures of top-1 whose experts have a capacity. llama-moe-v1 2.5 and T13.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using testing::TinyTraining;
using Options = TinyTraining::Options;

void limit_experts(TinyTraining& training, const std::string& dropped) {
  ModelConfig config = testing::tiny_moe_config(4, 1, 12, 0);
  config.moe->topk_norm = "straight_through";
  training.set_model(config);
  training.spec.set_capacity_factor(1.25);
  training.spec.set_dropped_tokens(dropped);
}

class DroppedTokensTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Dropped, DroppedTokensTest, ::testing::Values("zero", "input"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(DroppedTokensTest, TheSameAreDroppedOnOneRankAndOnMoreWithExpertsSpread) {
  TinyTraining training("float64");
  limit_experts(training, GetParam());
  training.expect_alike_on({{2, 1}, {2, 2}, {4, 2}, {4, 4}});
  for (const json& line : training.lines({.job = "one"})) EXPECT_TRUE(line.contains("dropped_tokens"));
  EXPECT_GT(training.lines({.job = "one"}).front()["dropped_tokens"], 0);
}

TEST_P(DroppedTokensTest, ResumesBitForBit) {
  TinyTraining training;
  limit_experts(training, GetParam());
  training.expect_resumes_bit_for_bit();
}

/// Of a step of one micro-batch the load tells what must be dropped.
TEST(ExpertCapacityTest, TheTotalIsWhatTheLoadSays) {
  TinyTraining training;
  limit_experts(training, "zero");
  training.spec.set_micro_steps(1);
  const Options run{.job = "run", .ranks = 2};
  ASSERT_TRUE(training.run(run));
  for (const json& line : training.lines(run)) {
    int64_t dropped = 0;
    for (const json& layer : line["expert_load"]) {
      int64_t tokens = 0;
      for (const json& count : layer) tokens += count.get<int64_t>();
      const auto capacity = static_cast<int64_t>(std::floor(1.25 * static_cast<double>(tokens) / 4));
      for (const json& count : layer) dropped += std::max<int64_t>(0, count.get<int64_t>() - capacity);
    }
    EXPECT_EQ(line["dropped_tokens"], dropped) << "step " << line["step"];
  }
}

TEST(ExpertCapacityTest, WhatDroppedTokensGetIsAChoiceAndRoomForAllDropsNone) {
  std::map<std::string, double> losses;
  for (const char* dropped : {"zero", "input", "all", "none"}) {
    TinyTraining training;
    limit_experts(training, dropped == std::string("input") ? "input" : "zero");
    if (dropped == std::string("all")) training.spec.set_capacity_factor(4);
    if (dropped == std::string("none")) training.spec.set_capacity_factor(0);
    training.spec.set_steps(1);
    training.spec.set_checkpoint_every(0);
    ASSERT_TRUE(training.run({}));
    const json line = training.lines({}).front();
    losses[dropped] = line["loss"];
    EXPECT_EQ(line.contains("dropped_tokens"), dropped != std::string("none"));
    if (dropped == std::string("all")) {
      EXPECT_EQ(line["dropped_tokens"], 0);
    }
  }
  EXPECT_EQ(losses["all"], losses["none"]);
  EXPECT_NE(losses["zero"], losses["none"]);
  EXPECT_NE(losses["zero"], losses["input"]);
}

TEST(ExpertCapacityTest, OnlyModelsOfTop1HaveACapacity) {
  const std::pair<ModelConfig, const char*> cases[] = {
      {testing::tiny_moe_config(4, 2, 12), "capacity_factor 1.25 is of models with top_k 1, and this one has top_k 2"},
      {testing::tiny_config(), "its feed-forward layers are dense"},
      {testing::with_attention_experts(testing::tiny_config(), 4, 1), "its feed-forward layers are dense"}};
  for (const auto& [config, told] : cases) {
    TinyTraining training;
    limit_experts(training, "zero");
    training.set_model(config);
    EXPECT_THAT([&] { training.run({.ranks = 2}); }, ThrowsMessage<InvalidArgument>(HasSubstr(told)));
  }
}

TEST(BalanceLayersTrainingTest, ConcatenatedLayersTrainAlikeOnAnyLayoutInEveryScope) {
  for (const char* scope : {"micro_batch", "sequence", "global_batch"}) {
    SCOPED_TRACE(scope);
    TinyTraining training("float64");
    training.spec.set_balance_scope(scope);
    training.spec.set_balance_loss(0.3);
    training.spec.set_steps(4);
    const Options apart{.job = "apart"}, one{.job = "one"}, many{.job = "many", .ranks = 4, .expert_parallel = 2};
    ASSERT_TRUE(training.run(apart));
    training.spec.set_balance_layers("concatenated");
    ASSERT_TRUE(training.run(one));
    ASSERT_TRUE(training.run(many));
    training.expect_alike_steps(many, one);
    EXPECT_GT(std::abs(training.lines(one).front()["balance_loss"].get<double>() -
                       training.lines(apart).front()["balance_loss"].get<double>()),
              1e-4);
  }
}

}  // namespace
}  // namespace moe
