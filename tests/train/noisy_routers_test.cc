// Trainings of mixtures whose routers have other gates and noise, and balance losses beside the auxiliary one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "testing/compare.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"
#include "train/trainer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

struct Router {
  const char* gate;
  const char* noise;
  const char* balance;
  int64_t top_k = 2;
};

void give_router(TinyTraining& training, const Router& router, at::ScalarType dtype) {
  ModelConfig config = testing::tiny_moe_config(4, router.top_k, 12, 0);
  config.moe->router = router.gate;
  config.moe->router_noise = router.noise;
  fs::remove_all(training.folder() / "model");
  testing::write_tiny_model(training.folder() / "model", config, 5, dtype);
  training.spec.set_balance(router.balance);
}

class NoisyTrainingTest : public ::testing::TestWithParam<Router> {};
INSTANTIATE_TEST_SUITE_P(
    Routers, NoisyTrainingTest,
    ::testing::Values(Router{"mlp", "learned", "importance_load"}, Router{"linear", "learned", "auxiliary"},
                      Router{"linear", "learned", "quantile"}, Router{"linear", "gumbel", "auxiliary", 1},
                      Router{"product", "none", "none"}),
    [](const auto& test) { return concat(test.param.gate, "_", test.param.noise, "_", test.param.balance); });

/// Noise is that of the token wherever the token lies.
TEST_P(NoisyTrainingTest, IsTheSameOnOneRankAndOnMoreWithExpertsSpread) {
  TinyTraining training("float64");
  give_router(training, GetParam(), at::kDouble);
  training.spec.set_micro_steps(2);
  const Options one{.job = "one"};
  ASSERT_TRUE(training.run(one));
  const std::vector<json> expected = training.lines(one);
  const ModelDirectory source(training.folder() / "model"), a(training.output(one));
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
    const Options many{
        .job = concat("many", ranks, expert_parallel), .ranks = ranks, .expert_parallel = expert_parallel};
    ASSERT_TRUE(training.run(many));
    const std::vector<json> lines = training.lines(many);
    ASSERT_EQ(lines.size(), expected.size());
    for (size_t i = 0; i < lines.size(); ++i) {
      EXPECT_NEAR(lines[i]["loss"].get<double>() / expected[i]["loss"].get<double>(), 1, 1e-9) << "step " << i + 1;
      EXPECT_EQ(lines[i]["expert_load"], expected[i]["expert_load"]) << "step " << i + 1;
      EXPECT_NEAR(lines[i]["balance_loss"], expected[i]["balance_loss"], 1e-7) << "step " << i + 1;
    }
    const ModelDirectory b(training.output(many));
    for (const TensorSpec& spec : logical_tensor_specs(a.config()))
      EXPECT_TRUE(testing::near(b.tensor(spec.name), a.tensor(spec.name), 1e-6)) << spec.name;
  }
  // Every tensor of the routers is trained.
  for (const TensorSpec& spec : logical_tensor_specs(source.config())) {
    if (!is_of_router(spec.id.part)) continue;
    EXPECT_FALSE(at::equal(a.tensor(spec.name), source.tensor(spec.name))) << spec.name;
  }
}

TEST_P(NoisyTrainingTest, ResumesBitForBit) {
  TinyTraining training;
  give_router(training, GetParam(), at::kFloat);
  training.expect_resumes_bit_for_bit();
}

/// The seed of the job names the noise; without noise it changes no step.
TEST(NoisyTrainingTest, NoiseChangesTheTrainingAndNotTheModel) {
  std::map<std::string, json> first_losses;
  for (const char* noise : {"none", "learned", "gumbel"}) {
    TinyTraining training;
    give_router(training, {"linear", noise, "none"}, at::kFloat);
    const Options run{.job = "run"};
    ASSERT_TRUE(training.run(run));
    first_losses[noise] = training.lines(run).front()["loss"];
    EXPECT_EQ(ModelDirectory(training.output(run)).config().moe->router_noise, noise);
  }
  EXPECT_NE(first_losses["none"], first_losses["learned"]);
  EXPECT_NE(first_losses["none"], first_losses["gumbel"]);
}

// llama-moe-v2 D4.
TEST(BalanceFormsTest, TheConstantIsExpertsOverTopKAndTrainsNothing) {
  TinyTraining training;
  give_router(training, {"linear", "none", "constant"}, at::kFloat);
  training.spec.set_micro_steps(2);
  training.spec.set_balance_loss(0.5);
  Options constant{.job = "constant", .ranks = 2};
  constant.progress = [](const StepRecord& record) { EXPECT_NEAR(record.total_loss - record.loss, 1, 1e-6); };
  const Options none{.job = "none", .ranks = 2};
  ASSERT_TRUE(training.run(constant));
  for (const json& line : training.lines(constant)) EXPECT_NEAR(line["balance_loss"], 2, 1e-6);
  training.spec.set_balance("none");
  ASSERT_TRUE(training.run(none));
  EXPECT_EQ(training.weights(constant), training.weights(none));
}

// D4's numbers.
TEST(BalanceFormsTest, TheConstantOfThePublishedSizes) {
  struct Sizes {
    int64_t experts, top_k;
    double constant;
  };
  for (const Sizes& sizes : {Sizes{8, 2, 4}, {7, 1, 7}, {8, 7, 1.142857142857}}) {
    TinyTraining training;
    fs::remove_all(training.folder() / "model");
    testing::write_tiny_model(training.folder() / "model", testing::tiny_moe_config(sizes.experts, sizes.top_k, 6), 5,
                              at::kFloat);
    training.spec.set_balance("constant");
    training.spec.set_steps(1);
    training.spec.set_checkpoint_every(0);
    ASSERT_TRUE(training.run(Options{}));
    EXPECT_NEAR(training.lines(Options{}).front()["balance_loss"], sizes.constant, 1e-6);
  }
}

// llama-moe-v1 T17 (ii): trained on, the squared variations of importance and load end smaller than left alone. Of the
// last ten steps, since the noise of one moves them.
TEST(BalanceFormsTest, ImportanceLoadEvensTheLoad) {
  const auto last_variation = [](double coefficient) {
    TinyTraining training;
    give_router(training, {"mlp", "learned", "importance_load"}, at::kFloat);
    training.spec.set_balance_loss(coefficient);
    training.spec.set_steps(40);
    training.spec.set_learning_rate(3e-3);
    training.spec.set_checkpoint_every(0);
    const Options run{};
    training.run(run);
    const std::vector<json> lines = training.lines(run);
    double sum = 0;
    for (size_t i = lines.size() - 10; i < lines.size(); ++i) sum += lines[i]["balance_loss"].get<double>();
    return sum / 10;
  };
  const double with = last_variation(1), without = last_variation(0);
  std::cout << "variation with the loss " << with << ", without " << without << "\n";
  EXPECT_LT(with, 0.8 * without);
}

TEST(BalanceFormsTest, TheEstimatorsDiffer) {
  TinyTraining training;
  give_router(training, {"mlp", "learned", "importance_load"}, at::kFloat);
  const Options exact{.job = "exact"}, reference{.job = "reference"};
  ASSERT_TRUE(training.run(exact));
  training.spec.set_load_estimator("reference_v1");
  ASSERT_TRUE(training.run(reference));
  EXPECT_EQ(training.lines(exact).front()["loss"], training.lines(reference).front()["loss"]);
  EXPECT_NE(training.lines(exact).front()["balance_loss"], training.lines(reference).front()["balance_loss"]);
}

TEST(BalanceFormsTest, ImportanceLoadRefusesAModelWhoseChoiceSeesABias) {
  TinyTraining training;
  ModelConfig config = testing::tiny_moe_config(4, 2, 12, 0);
  config.moe->has_selection_bias = true;
  fs::remove_all(training.folder() / "model");
  testing::write_tiny_model(training.folder() / "model", config, 5, at::kFloat);
  training.spec.set_balance("importance_load");
  try {
    training.run({.ranks = 2});
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("selection biases"));
  }
}

}  // namespace
}  // namespace moe
