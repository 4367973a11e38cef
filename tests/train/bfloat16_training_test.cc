// Trainings that compute in bfloat16: near those in float32, with masters in float that nothing rounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"
#include "train/working_weights.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

bool has_bits_beyond_bfloat16(const at::Tensor& tensor) {
  return !at::equal(tensor.to(at::kBFloat16).to(at::kFloat), tensor);
}

/// Share of what one training changed that another changed otherwise, in norms over all weights.
double unlike_changes(const ModelDirectory& before, const ModelDirectory& found, const ModelDirectory& wanted) {
  double difference = 0, change = 0;
  for (const TensorSpec& spec : logical_tensor_specs(before.config())) {
    const auto square = [&](const at::Tensor& a, const at::Tensor& b) {
      return (a.to(at::kDouble) - b.to(at::kDouble)).square().sum().item<double>();
    };
    difference += square(found.tensor(spec.name), wanted.tensor(spec.name));
    change += square(wanted.tensor(spec.name), before.tensor(spec.name));
  }
  return std::sqrt(difference / change);
}

class Bfloat16TrainingTest : public ::testing::Test {
 protected:
  void change(const std::function<void(v1::TrainSpec& spec)>& spec) {
    for (TinyTraining* training : {&training_, &in_float_}) spec(training->spec);
  }

  TinyTraining training_{"bfloat16"}, in_float_{"float32"};
  const Options job_{.job = "job"};
};

TEST_F(Bfloat16TrainingTest, LossesAreNearThoseInFloat32) {
  change([](v1::TrainSpec& spec) { spec.set_steps(20); });
  for (TinyTraining* training : {&training_, &in_float_}) {
    training->validate(10);
    ASSERT_TRUE(training->run(job_));
  }
  const std::vector<json> found = training_.lines(job_), wanted = in_float_.lines(job_);
  ASSERT_EQ(found.size(), 20U);
  for (size_t i = 0; i < found.size(); ++i) {
    SCOPED_TRACE(i);
    for (const char* loss : {"loss", "validation_loss"}) {
      if (!wanted[i].contains(loss)) continue;
      const auto value = wanted[i][loss].get<double>();
      EXPECT_NEAR(found[i][loss].get<double>(), value, 2e-2 * value);
      EXPECT_NE(found[i][loss], wanted[i][loss]) << "computed in float";
    }
    const auto norm = wanted[i]["gradient_norm"].get<double>();
    EXPECT_NEAR(found[i]["gradient_norm"].get<double>(), norm, 0.1 * norm);
  }
}

/// Steps of a rate whose change of most weights bfloat16 does not tell apart.
TEST_F(Bfloat16TrainingTest, SmallStepsAreNotLost) {
  change([](v1::TrainSpec& spec) {
    spec.set_learning_rate(1e-5);
    spec.set_steps(9);
  });
  ASSERT_TRUE(training_.run(job_));
  ASSERT_TRUE(in_float_.run(job_));
  const ModelDirectory before(training_.folder() / "model"), found(training_.output(job_)),
      wanted(in_float_.output(job_));
  EXPECT_EQ(found.stored_dtype(), "F32");
  EXPECT_LT(unlike_changes(before, found, wanted), 0.3);
  for (const TensorSpec& spec : logical_tensor_specs(found.config()))
    EXPECT_TRUE(has_bits_beyond_bfloat16(found.tensor(spec.name))) << spec.name;
}

/// In bfloat16 256 and 1 are 256.
TEST(WorkingWeightsTest, SumsGradientsOfMicroBatchesInFloat) {
  const auto weight = [](at::ScalarType type) {
    return std::vector<Parameter>{{.name = "w", .value = at::ones({2}, type), .id = {TensorPart::kUp, 0}}};
  };
  std::vector<Parameter> masters = weight(at::kFloat), working = weight(at::kBFloat16);
  WorkingWeights weights(masters, working);
  masters[0].value.set_requires_grad(true);
  weights.require_gradients();
  for (int i = 0; i < 300; ++i) {
    working[0].value.sum().backward();
    weights.move_gradients();
    ASSERT_FALSE(working[0].value.grad().defined());
  }
  EXPECT_TRUE(at::equal(masters[0].value.grad(), at::full({2}, 300.0F)));
}

TEST_F(Bfloat16TrainingTest, CheckpointsHoldTheMastersAndResumeBitForBit) {
  training_.expect_resumes_bit_for_bit();
  int64_t finer = 0, weights = 0;
  for (const auto& [name, tensor] : training_.checkpoint({.job = "whole"}, 9, 1)) {
    EXPECT_EQ(tensor.scalar_type(), at::kFloat) << name;
    if (name.ends_with(".m") || name.ends_with(".v")) continue;
    ++weights;
    finer += has_bits_beyond_bfloat16(tensor);
  }
  EXPECT_GT(weights, 10);
  EXPECT_EQ(finer, weights);
}

/// What a token comes to does not depend on the rank that has it, and sums over ranks are in float. With experts
/// spread, what those of one rank give a token is summed there and rounded before it travels.
TEST_F(Bfloat16TrainingTest, LayoutsAgreeAsFarAsTheirSumsAreRoundedAlike) {
  ASSERT_TRUE(training_.run(job_));
  const std::vector<json> wanted = training_.lines(job_);
  for (const auto& [ranks, expert_parallel] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
    const Options many{
        .job = concat("many-", ranks, "-", expert_parallel), .ranks = ranks, .expert_parallel = expert_parallel};
    ASSERT_TRUE(training_.run(many));
    const std::vector<json> found = training_.lines(many);
    ASSERT_EQ(found.size(), wanted.size());
    EXPECT_NEAR(found.front()["loss"].get<double>() / wanted.front()["loss"].get<double>(), 1,
                expert_parallel == 1 ? 1e-6 : 2e-3);
    if (expert_parallel == 1) {
      EXPECT_EQ(found.front()["expert_load"], wanted.front()["expert_load"]);
    }
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_NEAR(found[i]["loss"].get<double>() / wanted[i]["loss"].get<double>(), 1, 1e-2) << i;
  }
}

/// What the decoder chooses by is what the training moved.
TEST_F(Bfloat16TrainingTest, SelectionBiasesAndFrozenRoutersAreNotRounded) {
  change([](v1::TrainSpec& spec) {
    spec.set_balance("selection_bias");
    spec.set_selection_bias_rate(0.001);
    spec.set_frozen_router_steps(4);
  });
  ASSERT_TRUE(training_.run(job_));
  const ModelDirectory before(training_.folder() / "model"), after(training_.output(job_));
  for (const TensorSpec& spec : logical_tensor_specs(after.config())) {
    if (spec.id.part != TensorPart::kSelectionBias) continue;
    const at::Tensor bias_E = after.tensor(spec.name);
    EXPECT_GT(bias_E.abs().max().item<double>(), 0);
    EXPECT_TRUE(has_bits_beyond_bfloat16(bias_E));
  }
  training_.expect_same(training_.kill_and_resume({.job = "killed"}, 5), job_);
}

TEST_F(Bfloat16TrainingTest, RoutersOfTheDecoderThatComputesAreInFloat) {
  const std::vector<Parameter> parameters =
      allocate_parameters(testing::tiny_moe_config(4, 2, 12), at::kBFloat16, {{0, 4}, {}});
  int64_t routers = 0;
  for (const Parameter& parameter : parameters) {
    const bool routes = is_of_router(parameter.id.part);
    EXPECT_EQ(parameter.value.scalar_type(), routes ? at::kFloat : at::kBFloat16) << parameter.name;
    routers += routes;
  }
  EXPECT_EQ(routers, 2);
}

}  // namespace
}  // namespace moe
