// Trainings of a mixture whose shared experts have a learned gate: on one rank and on several, resumed, frozen,
// written.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/model_directory.h"
#include "testing/compare.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

struct Gate {
  const char* gate;
  int64_t rows;
};

class SharedGateTrainingTest : public ::testing::TestWithParam<Gate> {
 protected:
  /// Gates begin at random numbers, as those of a training that goes on.
  static void give_gate(TinyTraining& training, at::ScalarType dtype) {
    fs::remove_all(training.folder() / "model");
    testing::write_tiny_model(
        training.folder() / "model",
        testing::with_shared_gate(testing::tiny_moe_config(4, 2, 12, 8), GetParam().gate, GetParam().rows, 2), 5,
        dtype);
  }
};
INSTANTIATE_TEST_SUITE_P(Gates, SharedGateTrainingTest, ::testing::Values(Gate{"softmax", 2}, Gate{"sigmoid", 1}),
                         [](const auto& test) { return std::string(test.param.gate); });

TEST_P(SharedGateTrainingTest, IsTheSameOnOneTwoAndFourRanksWithExpertsSpread) {
  TinyTraining training("float64");
  give_gate(training, at::kDouble);
  const Options one{.job = "one"};
  ASSERT_TRUE(training.run(one));
  const std::vector<json> expected = training.lines(one);
  const ModelDirectory source(training.folder() / "model"), a(training.output(one));
  EXPECT_EQ(a.config().moe->shared_gate, GetParam().gate);
  EXPECT_EQ(a.config().moe->shared_gate_rows, GetParam().rows);
  EXPECT_EQ(a.config().moe->shared_gate_scale, 2);
  for (const int ranks : {2, 4}) {
    SCOPED_TRACE(ranks);
    const Options many{.job = std::to_string(ranks), .ranks = ranks, .expert_parallel = ranks};
    ASSERT_TRUE(training.run(many));
    const std::vector<json> lines = training.lines(many);
    ASSERT_EQ(lines.size(), expected.size());
    for (size_t i = 0; i < lines.size(); ++i) {
      EXPECT_NEAR(lines[i]["loss"].get<double>() / expected[i]["loss"].get<double>(), 1, 1e-9) << "step " << i + 1;
      EXPECT_EQ(lines[i]["expert_load"], expected[i]["expert_load"]) << "step " << i + 1;
    }
    const ModelDirectory b(training.output(many));
    int64_t gates = 0;
    for (const TensorSpec& spec : logical_tensor_specs(source.config())) {
      EXPECT_TRUE(testing::near(b.tensor(spec.name), a.tensor(spec.name), 1e-6)) << spec.name;
      EXPECT_FALSE(at::equal(a.tensor(spec.name), source.tensor(spec.name))) << spec.name << " is not trained";
      gates += spec.id.part == TensorPart::kSharedGate;
    }
    EXPECT_EQ(gates, 2);
  }
}

TEST_P(SharedGateTrainingTest, ResumesBitForBit) {
  TinyTraining training;
  give_gate(training, at::kFloat);
  const Options whole{.job = "whole", .ranks = 2, .expert_parallel = 2};
  ASSERT_TRUE(training.run(whole));
  Options killed{.job = "killed", .ranks = 2, .expert_parallel = 2};
  training.run_and_kill(killed, 5);
  killed.attempt = 2;
  ASSERT_TRUE(training.run(killed));
  training.expect_same(killed, whole);
}

/// With the routers: frozen together, and trained from the same step on.
TEST_P(SharedGateTrainingTest, StandsStillWhileRoutersDo) {
  TinyTraining training;
  give_gate(training, at::kFloat);
  training.spec.set_frozen_router_steps(4);
  training.spec.set_checkpoint_every(1);
  training.spec.set_keep_checkpoints(10);
  const Options run{.job = "run", .ranks = 2, .expert_parallel = 2};
  ASSERT_TRUE(training.run(run));
  const ModelDirectory model(training.folder() / "model");
  for (const int64_t step : {1, 4, 5, 9}) {
    const std::map<std::string, at::Tensor> saved = training.checkpoint(run, step, 1);
    for (const char* name : {"model.layers.0.mlp.shared_expert_gate.weight", "model.layers.1.mlp.router.weight",
                             "model.layers.1.mlp.shared_expert_gate.weight"}) {
      EXPECT_EQ(at::equal(saved.at(name), model.tensor(name)), step <= 4) << name << " after step " << step;
    }
  }
}

}  // namespace
}  // namespace moe
