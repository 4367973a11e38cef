// Trainings whose routers are balanced by a bias, or stand still at first: resumed, spread over ranks, written.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <set>
#include <string>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/optimizer.h"
#include "train/train_fixture.h"
#include "train/trainer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

constexpr const char* kBiasNames[] = {"model.layers.0.mlp.router.selection_bias",
                                      "model.layers.1.mlp.router.selection_bias"};

class BiasedTrainingTest : public ::testing::TestWithParam<const char*> {
 protected:
  static void balance_by(const char* balance, TinyTraining& training) {
    training.spec.set_balance(balance);
    training.spec.set_selection_bias_rate(0.01);
  }
};
INSTANTIATE_TEST_SUITE_P(Balances, BiasedTrainingTest, ::testing::Values("selection_bias", "quantile"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(BiasedTrainingTest, WritesItsBiasesAndResumesBitForBitOnOneAndTwoRanks) {
  TinyTraining training;
  balance_by(GetParam(), training);
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
    const std::string layout = concat("-", ranks, "-", expert_parallel);
    const Options whole{.job = "whole" + layout, .ranks = ranks, .expert_parallel = expert_parallel};
    ASSERT_TRUE(training.run(whole));
    const Options killed{.job = "killed" + layout, .ranks = ranks, .expert_parallel = expert_parallel};
    training.expect_same(training.kill_and_resume(killed, 5), whole);

    const ModelDirectory before(training.folder() / "model"), after(training.output(whole));
    EXPECT_FALSE(before.config().moe->has_selection_bias);
    EXPECT_TRUE(after.config().moe->has_selection_bias);
    EXPECT_EQ(json::parse(read_file(training.output(whole) / "config.json"))["moe"]["selection_bias"], true);
    const std::map<std::string, at::Tensor> saved = training.checkpoint(whole, 9, 1);
    for (const char* name : kBiasNames) {
      EXPECT_GT(after.tensor(name).abs().max().item<double>(), 1e-3);
      EXPECT_TRUE(saved.contains(name));
      EXPECT_FALSE(saved.contains(std::string(name) + ".m")) << "it has no moments";
      if (std::string(GetParam()) == "selection_bias") {
        EXPECT_NEAR(after.tensor(name).sum().item<double>(), 0, 1e-6);
        EXPECT_LE(after.tensor(name).abs().max().item<double>(), 10 * 0.02) << "10 steps of 0.01, recentred";
      }
    }
  }
}

/// In float64 the layouts agree to their last bits, and so do the choices, which every update is made of.
TEST_P(BiasedTrainingTest, IsTheSameOnEveryLayout) {
  TinyTraining training("float64");
  balance_by(GetParam(), training);
  const Options one{.job = "one"}, many{.job = "many", .ranks = 4, .expert_parallel = 2};
  ASSERT_TRUE(training.run(one));
  ASSERT_TRUE(training.run(many));
  training.expect_alike_steps(many, one);
  const ModelDirectory a(training.output(one)), b(training.output(many));
  for (const char* name : kBiasNames) EXPECT_TRUE(at::allclose(a.tensor(name), b.tensor(name), 1e-9, 1e-12));
}

/// Biases are made of forward passes alone, which give the same bits on every layout where a token adds up two experts.
/// Gradients of experts are sums over the ranks that have them, so that weights may part in their last bits once they
/// moved: after a step, or never where the rate is 0.
TEST_P(BiasedTrainingTest, InFloat32TheBiasesAreTheSameBitsOnEveryLayoutUntilWeightsMoved) {
  TinyTraining training;
  balance_by(GetParam(), training);
  for (const auto& [rate, steps] : {std::pair{1e-2, 1}, {0., 10}}) {
    training.spec.set_learning_rate(rate);
    training.spec.set_steps(steps);
    const Options one{.job = concat("one-", steps)};
    ASSERT_TRUE(training.run(one));
    const ModelDirectory expected(training.output(one));
    for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}, {4, 4}}) {
      SCOPED_TRACE(concat(steps, " steps, ", ranks, " ranks, expert parallelism ", expert_parallel));
      const Options many{.job = concat("many-", steps, "-", ranks, "-", expert_parallel),
                         .ranks = ranks,
                         .expert_parallel = expert_parallel};
      ASSERT_TRUE(training.run(many));
      const ModelDirectory found(training.output(many));
      for (const char* name : kBiasNames) {
        EXPECT_GT(expected.tensor(name).abs().max().item<double>(), 1e-3);
        EXPECT_TRUE(at::equal(found.tensor(name), expected.tensor(name))) << name;
      }
    }
  }
}

TEST_P(BiasedTrainingTest, BalancesBetterThanNothing) {
  const auto worst_load = [](const char* balance) {
    TinyTraining training;
    balance_by(balance, training);
    training.spec.set_selection_bias_rate(0.02);
    training.spec.set_steps(30);
    training.spec.set_learning_rate(1e-3);
    training.spec.set_checkpoint_every(0);
    return training.run(Options{})->metrics.at("load_max_over_mean");
  };
  const double with = worst_load(GetParam()), without = worst_load("none");
  std::cout << GetParam() << ": busiest expert over the mean " << with << ", with none " << without << "\n";
  EXPECT_LT(with, without);
}

/// Biases that are there stay as they are when something else balances, and are moved on when it is a bias again.
TEST_P(BiasedTrainingTest, AModelThatHasBiasesKeepsThem) {
  TinyTraining training;
  balance_by(GetParam(), training);
  const Options first{.job = "first"};
  ASSERT_TRUE(training.run(first));
  fs::remove_all(training.folder() / "model");
  fs::copy(training.output(first), training.folder() / "model", fs::copy_options::recursive);
  training.spec.set_balance("auxiliary");
  const Options second{.job = "second"};
  ASSERT_TRUE(training.run(second));
  training.spec.set_balance(GetParam());
  const Options third{.job = "third"};
  ASSERT_TRUE(training.run(third));
  const ModelDirectory before(training.output(first)), kept(training.output(second)), moved(training.output(third));
  for (const char* name : kBiasNames) {
    EXPECT_TRUE(at::equal(kept.tensor(name), before.tensor(name)));
    EXPECT_FALSE(at::equal(moved.tensor(name), before.tensor(name)));
  }
  EXPECT_FALSE(training.checkpoint(second, 9, 1).contains(std::string(kBiasNames[0]) + ".m"));
}

/// A skipped step moves no bias, as it changes no weight.
TEST_P(BiasedTrainingTest, AStepThatIsSkippedMovesNoBias) {
  TinyTraining training;
  balance_by(GetParam(), training);
  training.spec.set_learning_rate(1e15);
  training.spec.set_warmup_steps(0);
  training.spec.set_checkpoint_every(1);
  training.spec.set_keep_checkpoints(10);
  EXPECT_THROW(training.run({}), Diverged);
  const auto before = training.checkpoint({}, 1, 1), after = training.checkpoint({}, 3, 1);
  for (const char* name : kBiasNames) {
    EXPECT_TRUE(before.at(name).isfinite().all().item<bool>());
    EXPECT_TRUE(at::equal(before.at(name), after.at(name)));
  }
}

TEST(RouterTrainingTest, WithoutABalanceNoBiasIsMadeAndNoLossAdded) {
  TinyTraining training;
  training.spec.set_balance("none");
  training.spec.set_balance_loss(0.5);
  const Options none{.job = "none"}, zero{.job = "zero"}, given{.job = "given"}, old{.job = "old"};
  ASSERT_TRUE(training.run(none));
  EXPECT_FALSE(ModelDirectory(training.output(none)).config().moe->has_selection_bias);
  EXPECT_FALSE(json::parse(read_file(training.output(none) / "config.json"))["moe"].contains("selection_bias"));
  training.spec.set_balance("auxiliary");
  training.spec.set_balance_loss(0);
  ASSERT_TRUE(training.run(zero));
  training.expect_same(none, zero);
  // The defaults spelt out are what a spec without them says.
  training.spec.set_balance_loss(0.1);
  training.spec.set_balance_scope("micro_batch");
  training.spec.set_z_loss(0);
  training.spec.set_frozen_router_steps(0);
  ASSERT_TRUE(training.run(given));
  training.spec.clear_balance();
  training.spec.clear_balance_scope();
  ASSERT_TRUE(training.run(old));
  training.expect_same(given, old);
  EXPECT_NE(training.weights(given), training.weights(zero));
}

TEST(RouterTrainingTest, FrozenRoutersKeepTheirBitsForTheFirstSteps) {
  for (const char* balance : {"auxiliary", "selection_bias"}) {
    SCOPED_TRACE(balance);
    TinyTraining training;
    training.spec.set_balance(balance);
    training.spec.set_selection_bias_rate(0.01);
    training.spec.set_frozen_router_steps(4);
    training.spec.set_checkpoint_every(1);
    training.spec.set_keep_checkpoints(10);
    for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 2}}) {
      const std::string layout = concat("-", ranks);
      const Options whole{.job = "whole" + layout, .ranks = ranks, .expert_parallel = expert_parallel};
      ASSERT_TRUE(training.run(whole));
      const ModelDirectory model(training.folder() / "model");
      for (int64_t step = 1; step <= 9; ++step) {
        const std::map<std::string, at::Tensor> saved = training.checkpoint(whole, step, 1);
        for (const auto& [name, tensor] : saved) {
          if (name.ends_with(".router.weight")) {
            EXPECT_EQ(at::equal(tensor, model.tensor(name)), step <= 4) << name << " after step " << step;
          }
          if (name.ends_with(".router.weight.m") || name.ends_with(".router.selection_bias")) {
            EXPECT_EQ(tensor.count_nonzero().item<int64_t>() == 0, step <= 4) << name << " after step " << step;
          }
        }
        EXPECT_FALSE(at::equal(saved.at("model.layers.0.mlp.experts.1.down_proj.weight"),
                               model.tensor("model.layers.0.mlp.experts.1.down_proj.weight")));
      }
      for (const int64_t step : {3, 6}) {
        const Options killed{
            .job = concat("killed", layout, "-", step), .ranks = ranks, .expert_parallel = expert_parallel};
        training.expect_same(training.kill_and_resume(killed, step), whole);
      }
    }
  }
}

/// The first update that a router gets is that of an optimizer whose first it is, resumed or not; the experts' fifth is
/// not. Moments of one update tell the gradient.
TEST(RouterTrainingTest, TheFirstUpdateAfterTheFreezeIsThatOfAFreshOptimizer) {
  TinyTraining training("float64");
  training.spec.set_frozen_router_steps(4);
  training.spec.set_checkpoint_every(1);
  training.spec.set_keep_checkpoints(10);
  const Options whole{.job = "whole", .ranks = 2, .expert_parallel = 2};
  ASSERT_TRUE(training.run(whole));
  const Options resumed = training.kill_and_resume({.job = "killed", .ranks = 2, .expert_parallel = 2}, 4);
  const double rate = training.lines(whole)[4]["learning_rate"];
  for (const Options& run : {whole, resumed}) {
    SCOPED_TRACE(run.job);
    const auto before = training.checkpoint(run, 4, run.attempt), after = training.checkpoint(run, 5, run.attempt);
    for (const char* name : {"model.layers.0.mlp.router.weight", "model.layers.1.mlp.router.weight"}) {
      std::vector<Parameter> fresh{{.name = name,
                                    .value = before.at(name).clone().requires_grad_(true),
                                    .decays = true,
                                    .id = TensorPart::kRouter}};
      AdamW optimizer(fresh, {.weight_decay = 0.1});
      fresh[0].value.mutable_grad() = after.at(std::string(name) + ".m") / 0.1;
      optimizer.update(rate, 1, 1);
      EXPECT_GT((after.at(name) - before.at(name)).abs().max().item<double>(), rate / 2);
      EXPECT_TRUE(at::allclose(after.at(name), fresh[0].value.detach(), 0, 1e-9)) << name;
    }
  }
}

TEST(RouterTrainingTest, ScopesAndZLossTrainAndResume) {
  std::set<std::map<std::string, std::string>> results;
  for (const auto& [scope, z_loss] :
       {std::pair{"micro_batch", 0.}, {"sequence", 0.}, {"global_batch", 0.}, {"sequence", 0.1}}) {
    SCOPED_TRACE(concat(scope, " ", z_loss));
    TinyTraining training;
    training.spec.set_balance("auxiliary");
    training.spec.set_balance_scope(scope);
    training.spec.set_balance_loss(0.1);
    training.spec.set_z_loss(z_loss);
    training.expect_resumes_bit_for_bit();
    const Options whole{.job = "whole"};
    results.insert(training.weights(whole));
    for (const json& line : training.lines(whole)) {
      ASSERT_EQ(line.contains("z_loss"), z_loss > 0);
      EXPECT_GT(line.value("z_loss", 1.0), 0.1) << "log(4)^2 of even logits around 0 is 1.9";
    }
  }
  EXPECT_EQ(results.size(), 4U) << "each is a training of its own";
}

TEST(RouterTrainingTest, OfOneMicroBatchTheGlobalBatchIsThatMicroBatch) {
  TinyTraining training;
  training.spec.set_balance("auxiliary");
  training.spec.set_balance_loss(0.1);
  training.spec.set_micro_steps(1);
  const Options micro{.job = "micro", .ranks = 2}, global{.job = "global", .ranks = 2};
  training.spec.set_balance_scope("micro_batch");
  ASSERT_TRUE(training.run(micro));
  training.spec.set_balance_scope("global_batch");
  ASSERT_TRUE(training.run(global));
  training.expect_same(global, micro);
}

TEST(RouterTrainingTest, ADenseModelHasNothingToBalance) {
  TinyTraining training;
  training.spec.set_balance("quantile");
  training.set_model(testing::tiny_config());
  ASSERT_TRUE(training.run({.ranks = 2}));
}

/// A way of a router to weigh the experts that it chose.
struct Weighing {
  const char* score;
  const char* topk_norm;
};

/// A training without a balance of a mixture whose routers weigh so: only the loss of the text moves them.
class WeighedTrainingTest : public ::testing::TestWithParam<Weighing> {
 protected:
  static void weigh(TinyTraining& training) {
    ModelConfig config = testing::tiny_moe_config(4, 2, 12, 0);
    config.moe->score = GetParam().score;
    config.moe->topk_norm = GetParam().topk_norm;
    training.set_model(config);
    training.spec.set_balance("none");
  }
};
INSTANTIATE_TEST_SUITE_P(Weighings, WeighedTrainingTest,
                         ::testing::Values(Weighing{"sigmoid", "raw"}, Weighing{"softmax", "one_plus"},
                                           Weighing{"softmax", "unit"}),
                         [](const auto& test) { return concat(test.param.score, "_", test.param.topk_norm); });

TEST_P(WeighedTrainingTest, IsTheSameOnOneRankAndOnTwoWithExpertsSpread) {
  TinyTraining training("float64");
  weigh(training);
  training.expect_alike_on({{2, 2}});
  const Options one{.job = "one"};
  const std::vector<json> lines = training.lines(one);
  ASSERT_EQ(lines.size(), 10U);
  EXPECT_LT(lines.back()["loss"], lines.front()["loss"]);
  const ModelDirectory source(training.folder() / "model"), a(training.output(one));
  EXPECT_EQ(a.config().moe->score, GetParam().score);
  EXPECT_EQ(a.config().moe->topk_norm, GetParam().topk_norm);
  const bool is_unit = std::string(GetParam().topk_norm) == "unit";
  int64_t gains = 0;
  for (const TensorSpec& spec : logical_tensor_specs(source.config())) {
    const bool is_left = is_unit && spec.id.part == TensorPart::kRouter;
    EXPECT_EQ(at::equal(a.tensor(spec.name), source.tensor(spec.name)), is_left) << spec.name;
    gains += spec.id.part == TensorPart::kRouterGain;
  }
  EXPECT_EQ(gains, std::string(GetParam().topk_norm) == "one_plus" ? 2 : 0);
}

TEST_P(WeighedTrainingTest, ResumesBitForBit) {
  TinyTraining training;
  weigh(training);
  training.expect_resumes_bit_for_bit();
}

}  // namespace
}  // namespace moe
