// A training on the simulated GPUs is the one on the CPU: the same steps up to the rounding of sums, the same tokens to
// the same experts, and checkpoints that go on on the other device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda_host/torch/allocator.h"
#include "cuda_host/torch/record.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::TinyTraining;

constexpr double kTolerance = 1e-5;

/// What a training asks of LibTorch is written down, so that a new one is noticed: it must have a kernel for GPUs
/// (cuda_operators_peer_test.cc asks).
void expect_listed() {
  std::set<std::string> listed;
  std::ifstream file(testing::source_dir() + "/tests/cuda_host/torch/operators.txt");
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') listed.insert(line);
  }
  for (const auto& [name, count] : cuda_host::operators_run())
    EXPECT_TRUE(listed.count(name) > 0) << name << " is not in tests/cuda_host/torch/operators.txt";
}

class DeviceTrainingTest : public ::testing::Test {
 protected:
  DeviceTrainingTest() { ::setenv("MOE_CUDA_HOST_DEVICES", "4", 1); }

  static void expect_same_steps(const std::vector<json>& steps, const std::vector<json>& expected) {
    ASSERT_EQ(steps.size(), expected.size());
    for (size_t i = 0; i < steps.size(); ++i) {
      SCOPED_TRACE(expected[i]["step"]);
      EXPECT_EQ(steps[i]["expert_load"], expected[i]["expert_load"]);
      for (const char* number : {"loss", "gradient_norm", "balance_loss"}) {
        const auto value = expected[i][number].get<double>();
        EXPECT_NEAR(steps[i][number].get<double>(), value, kTolerance * value) << number;
      }
    }
  }

  TinyTraining training_;
};

TEST_F(DeviceTrainingTest, StepsAreThoseOfTheCpu) {
  training_.spec.set_steps(testing::sized(4, 20));  // a simulated step takes a second or two
  training_.spec.set_micro_steps(1);
  training_.validate(4);
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
    const std::string layout = concat(ranks, "-", expert_parallel);
    const TinyTraining::Options cpu{.job = "cpu-" + layout, .ranks = ranks, .expert_parallel = expert_parallel},
        cuda{.job = "cuda-" + layout, .ranks = ranks, .expert_parallel = expert_parallel, .device = "cuda"};
    ASSERT_TRUE(training_.run(cpu));
    ASSERT_TRUE(training_.run(cuda));
    expect_same_steps(training_.lines(cuda), training_.lines(cpu));
  }
}

TEST_F(DeviceTrainingTest, ACheckpointGoesOnOnTheOtherDevice) {
  training_.spec.set_steps(5);
  training_.spec.set_micro_steps(1);
  const TinyTraining::Options whole{.job = "whole"};
  ASSERT_TRUE(training_.run(whole));
  for (const auto& [first, second] : {std::pair{"cpu", "cuda"}, {"cuda", "cpu"}}) {
    SCOPED_TRACE(first);
    TinyTraining::Options job{.job = concat("from ", first), .device = first};
    training_.run_and_kill(job, 4);
    job.attempt = 2;
    job.device = second;
    ASSERT_TRUE(training_.run(job));
    std::vector<json> expected = training_.lines(whole);
    expected.erase(expected.begin(), expected.begin() + 3);  // goes on after the third step
    std::vector<json> found = training_.lines(job);
    found.erase(found.begin(), found.end() - static_cast<std::ptrdiff_t>(expected.size()));
    expect_same_steps(found, expected);
  }
}

/// Once it is warm. What it reads is for its record: losses and statistics, the gradients' norm, the experts' load.
TEST_F(DeviceTrainingTest, AStepOfOneRankTakesNoNewMemoryAndReadsItsRecordAlone) {
  training_.spec.set_steps(4);
  training_.spec.set_checkpoint_every(0);
  std::vector<std::pair<int64_t, int64_t>> seen;
  TinyTraining::Options job{.device = "cuda"};
  job.progress = [&](const StepRecord&) {
    seen.emplace_back(cuda_host::host_waits(), cuda_host::device_allocations());
  };
  ASSERT_TRUE(training_.run(job));
  ASSERT_EQ(seen.size(), 4U);
  for (size_t step : {2, 3}) {
    EXPECT_LE(seen[step].first - seen[step - 1].first, 3) << cuda_host::last_host_wait();
    EXPECT_EQ(seen[step].second, seen[step - 1].second);
  }
}

/// What a job may ask of its training besides, each for two steps.
struct Asked {
  const char* name;
  void (*change)(v1::TrainSpec& spec);
  const char* kind = "llama";
};
const Asked kAsked[] = {{"selection_bias",
                         [](v1::TrainSpec& spec) {
                           spec.set_balance("selection_bias");
                           spec.set_selection_bias_rate(0.01);
                         }},
                        {"quantile", [](v1::TrainSpec& spec) { spec.set_balance("quantile"); }},
                        {"sequence_and_z_loss",
                         [](v1::TrainSpec& spec) {
                           spec.set_balance_scope("sequence");
                           spec.set_z_loss(0.01);
                         }},
                        {"importance_load", [](v1::TrainSpec& spec) { spec.set_balance("importance_load"); }},
                        {"random_routing", [](v1::TrainSpec& spec) { spec.set_routing("random"); }},
                        {"from_scratch", [](v1::TrainSpec& spec) { spec.set_from_scratch(true); }},
                        {"qwen2", [](v1::TrainSpec&) {}, "qwen2"},
                        {"phi", [](v1::TrainSpec&) {}, "phi"}};

class AskedOnDeviceTest : public ::testing::TestWithParam<Asked> {};
INSTANTIATE_TEST_SUITE_P(, AskedOnDeviceTest, ::testing::ValuesIn(kAsked),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(AskedOnDeviceTest, StepsAreThoseOfTheCpu) {
  TinyTraining training("float32", GetParam().kind);
  training.spec.set_steps(2);
  training.spec.set_micro_steps(1);
  training.spec.set_checkpoint_every(0);
  GetParam().change(training.spec);
  ASSERT_TRUE(training.run({.job = "cpu"}));
  ASSERT_TRUE(training.run({.job = "cuda", .device = "cuda"}));
  const std::vector<json> steps = training.lines({.job = "cuda"}), expected = training.lines({.job = "cpu"});
  ASSERT_EQ(steps.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(steps[i]["expert_load"], expected[i]["expert_load"]);
    const auto loss = expected[i]["loss"].get<double>();
    EXPECT_NEAR(steps[i]["loss"].get<double>(), loss, kTolerance * loss);
  }
  expect_listed();
}

/// What either rounds to 8 bits are sums in float32 of another order: now and then it is the neighbour.
TEST_F(DeviceTrainingTest, InBfloat16StepsAreNearThoseOfTheCpu) {
  TinyTraining training("bfloat16");
  training.spec.set_steps(4);
  training.spec.set_micro_steps(2);
  training.validate(4);
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const TinyTraining::Options cpu{.job = concat("cpu", ranks), .ranks = ranks, .expert_parallel = ranks},
        cuda{.job = concat("cuda", ranks), .ranks = ranks, .expert_parallel = ranks, .device = "cuda"};
    ASSERT_TRUE(training.run(cpu));
    ASSERT_TRUE(training.run(cuda));
    const std::vector<json> found = training.lines(cuda), expected = training.lines(cpu);
    ASSERT_EQ(found.size(), 4U);
    for (size_t i = 0; i < found.size(); ++i) {
      for (const char* number : {"loss", "gradient_norm", "balance_loss"}) {
        const auto value = expected[i][number].get<double>();
        EXPECT_NEAR(found[i][number].get<double>(), value, 1e-2 * value) << number << " of step " << i + 1;
      }
    }
    const auto held_out = expected.back()["validation_loss"].get<double>();
    EXPECT_NEAR(found.back()["validation_loss"].get<double>(), held_out, 1e-2 * held_out);
  }
  expect_listed();
}

TEST_F(DeviceTrainingTest, OperatorsOfATrainingAreOnTheList) {
  training_.spec.set_steps(2);
  training_.validate(2);
  ASSERT_TRUE(training_.run({.job = "cuda", .device = "cuda"}));
  expect_listed();
}

}  // namespace
}  // namespace moe
