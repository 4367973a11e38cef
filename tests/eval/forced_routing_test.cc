// A model measured with another top_k than it was made with, and with experts that its routers did not choose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "common/error.h"
#include "eval/eval_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class ForcedRoutingTest : public testing::EvaluationTest {
 protected:
  ForcedRoutingTest() {
    spec_.add_tasks("perplexity");
    spec_.add_tasks("next_token_accuracy");
  }

  json measured(const std::string& model, int ranks = 1, int expert_parallel = 1) const {
    return run(model, "", ranks, expert_parallel)["tasks"];
  }
  /// The same on every layout of ranks, load included.
  void expect_same_on_every_layout() const {
    const json single = measured("moe");
    for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}, {4, 4}}) {
      SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
      const json spread = measured("moe", ranks, expert_parallel);
      EXPECT_EQ(spread["perplexity"]["expert_load"], single["perplexity"]["expert_load"]);
      EXPECT_NEAR(spread["perplexity"]["loss"].get<double>() / single["perplexity"]["loss"].get<double>(), 1, 1e-12);
      EXPECT_EQ(spread["next_token_accuracy"]["next_token_accuracy"],
                single["next_token_accuracy"]["next_token_accuracy"]);
    }
  }
  void expect_refused(const std::string& model, const std::vector<std::string>& told) const {
    try {
      run(model, "", 2, 1);
      FAIL() << "it was evaluated";
    } catch (const InvalidArgument& error) {
      for (const std::string& text : told) EXPECT_THAT(error.what(), HasSubstr(text));
    }
  }
};

// llama-moe-v1 2.4 and T13: the model that another top_k gives is the one whose config.json says it.
TEST_F(ForcedRoutingTest, AnotherTopKIsTheModelWithThatTopK) {
  for (const int top_k : {1, 2, 3, 4}) {
    SCOPED_TRACE(top_k);
    testing::write_tiny_model(folder_ / "written", testing::tiny_moe_config(4, top_k, 12), 1, at::kFloat);
    spec_.clear_top_k();
    const json written = measured("written");
    spec_.set_top_k(top_k);
    const json given = measured("moe");
    EXPECT_EQ(given, written);
    for (const json& layer : given["perplexity"]["expert_load"]) {
      int64_t routed = 0;
      for (const json& count : layer) routed += count.get<int64_t>();
      EXPECT_EQ(routed, top_k * given["perplexity"]["tokens"].get<int64_t>());
    }
    std::filesystem::remove_all(folder_ / "written");
  }
  spec_.set_top_k(3);
  expect_same_on_every_layout();
}

TEST_F(ForcedRoutingTest, TheBaselineIsMeasuredAsItIs) {
  const json plain = run("moe", "dense");
  spec_.set_top_k(1);
  spec_.set_routing("first");
  const json forced = run("moe", "dense"), beside_itself = run("moe", "moe");
  EXPECT_EQ(forced["baseline"], plain["baseline"]);
  EXPECT_EQ(beside_itself["baseline"]["tasks"]["perplexity"]["loss"], plain["tasks"]["perplexity"]["loss"]);
  EXPECT_NE(forced["tasks"]["perplexity"]["loss"], plain["tasks"]["perplexity"]["loss"]);
}

TEST_F(ForcedRoutingTest, WhatTheModelHasNotIsRefused) {
  spec_.set_top_k(5);
  expect_refused("moe", {"top_k 5 of the model's 4 experts; use 1 to 4"});
  spec_.set_top_k(1);
  expect_refused("dense", {"top_k 1", "dense"});
  testing::write_tiny_model(folder_ / "attention", testing::with_attention_experts(testing::tiny_config(), 4, 2), 1,
                            at::kFloat);
  expect_refused("attention", {"top_k 1", "its feed-forward layers are dense"});
  spec_.clear_top_k();
  spec_.set_routing("random");
  expect_refused("dense", {"routing 'random'", "dense"});
}

TEST_F(ForcedRoutingTest, RandomExpertsAreTheSameOnEveryLayoutAndOfTheSeed) {
  spec_.set_routing("random");
  expect_same_on_every_layout();
  const json seven = measured("moe");
  seed_ = 8;
  EXPECT_NE(measured("moe")["perplexity"]["expert_load"], seven["perplexity"]["expert_load"]);
  // Some 530 tokens: an expert of four has half of them, give or take 5 standard errors.
  const auto tokens = seven["perplexity"]["tokens"].get<double>();
  for (const json& layer : seven["perplexity"]["expert_load"]) {
    for (const json& count : layer) EXPECT_NEAR(count.get<double>(), tokens / 2, 5 * std::sqrt(tokens / 4));
  }
}

TEST_F(ForcedRoutingTest, TheFirstExpertsTakeEveryToken) {
  spec_.set_routing("first");
  expect_same_on_every_layout();
  const json result = measured("moe")["perplexity"];
  const json tokens = result["tokens"];
  for (const json& layer : result["expert_load"]) EXPECT_EQ(layer, json({tokens, tokens, 0, 0}));
  // With all experts it does not matter who chooses.
  spec_.set_top_k(4);
  const double first = measured("moe")["perplexity"]["loss"];
  spec_.set_routing("router");
  EXPECT_NEAR(measured("moe")["perplexity"]["loss"].get<double>() / first, 1, 1e-12);
}

}  // namespace
}  // namespace moe
