// Trainings that compute in bfloat16: near those in float32, with masters in float that nothing rounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <set>
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

TEST_F(Bfloat16TrainingTest, SelectionBiasesMoveAndRoutersStandStillAsInFloat32) {
  change([](v1::TrainSpec& spec) {
    spec.set_balance("selection_bias");
    spec.set_selection_bias_rate(0.001);
    spec.set_frozen_router_steps(6);
  });
  ASSERT_TRUE(training_.run(job_));
  const ModelDirectory before(training_.folder() / "model"), after(training_.output(job_));
  const std::map<std::string, at::Tensor> frozen = training_.checkpoint(job_, 6, 1);
  for (const TensorSpec& spec : logical_tensor_specs(after.config())) {
    if (spec.id.part == TensorPart::kRouter) {
      EXPECT_TRUE(at::equal(frozen.at(spec.name), before.tensor(spec.name))) << spec.name;
      EXPECT_FALSE(at::equal(after.tensor(spec.name), before.tensor(spec.name))) << spec.name;
    }
    if (spec.id.part != TensorPart::kSelectionBias) continue;
    const at::Tensor bias_E = after.tensor(spec.name);
    EXPECT_GT(bias_E.abs().max().item<double>(), 0);
    EXPECT_TRUE(has_bits_beyond_bfloat16(bias_E));
  }
  training_.expect_same(training_.kill_and_resume({.job = "killed"}, 5), job_);
}

/// Rows, outputs, gates, noise, gains and selection biases of routers, of attention's too, and gates of shared experts.
TEST_F(Bfloat16TrainingTest, WhatRoutesIsInFloatInTheDecoderThatComputes) {
  ModelConfig config = testing::with_attention_experts(
      testing::with_shared_gate(testing::tiny_moe_config(4, 2, 12, 8), "softmax", 2, 1), 4, 2);
  config.moe->has_selection_bias = config.moe->attention->has_selection_bias = true;
  config.moe->router_noise = "learned";
  config.moe->topk_norm = "one_plus";
  std::set<TensorPart> seen;
  for (const char* gate : {"mlp", "product"}) {
    config.moe->router = gate;
    for (const Parameter& parameter : allocate_parameters(config, at::kBFloat16, all_experts(config))) {
      const bool routes = is_of_router(parameter.id.part) || parameter.id.part == TensorPart::kSelectionBias;
      EXPECT_EQ(parameter.value.scalar_type(), routes ? at::kFloat : at::kBFloat16) << parameter.name;
      if (routes) seen.insert(parameter.id.part);
    }
  }
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre(
                        TensorPart::kRouter, TensorPart::kRouterOut, TensorPart::kRouterGate, TensorPart::kRouterNoise,
                        TensorPart::kRouterGain, TensorPart::kSelectionBias, TensorPart::kSharedGate));
}

/// What a job may ask besides: every type meets the others.
struct Asked {
  const char* name;
  void (*change)(ModelConfig& config, v1::TrainSpec& spec);
  const char* kind = "llama";
};
const Asked kAsked[] = {
    {"attention_experts",
     [](ModelConfig& config, v1::TrainSpec&) { config = testing::with_attention_experts(config, 4, 2, 1); }},
    {"keys_of_all_tokens",
     [](ModelConfig& config, v1::TrainSpec&) {
       config = testing::with_attention_experts(config, 4, 2);
       config.moe->attention->kv_mode = "dense";
     }},
    {"shared_gate",
     [](ModelConfig& config, v1::TrainSpec&) {
       config = testing::with_shared_gate(testing::tiny_moe_config(4, 2, 12, 8), "softmax", 2, 2);
     }},
    {"dropped_tokens",
     [](ModelConfig& config, v1::TrainSpec& spec) {
       config = testing::tiny_moe_config(4, 1, 12);
       spec.set_capacity_factor(1.25);
       spec.set_dropped_tokens("input");
     }},
    {"noise",
     [](ModelConfig& config, v1::TrainSpec& spec) {
       config.moe->router_noise = "learned";
       spec.set_balance("importance_load");
     }},
    {"quantile", [](ModelConfig&, v1::TrainSpec& spec) { spec.set_balance("quantile"); }},
    {"gates_and_gains",
     [](ModelConfig& config, v1::TrainSpec& spec) {
       config.moe->router = "product";
       config.moe->topk_norm = "one_plus";
       spec.set_z_loss(0.01);
       spec.set_balance_scope("sequence");
     }},
    {"from_scratch", [](ModelConfig&, v1::TrainSpec& spec) { spec.set_from_scratch(true); }},
    {"tied_embeddings",
     [](ModelConfig& config, v1::TrainSpec&) {
       config.tie_word_embeddings = true;
       config.source["tie_word_embeddings"] = true;
     }},
    {"qwen2", [](ModelConfig&, v1::TrainSpec&) {}, "qwen2"},
    {"phi", [](ModelConfig&, v1::TrainSpec&) {}, "phi"}};

class AskedInBfloat16Test : public ::testing::TestWithParam<Asked> {};
INSTANTIATE_TEST_SUITE_P(, AskedInBfloat16Test, ::testing::ValuesIn(kAsked),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(AskedInBfloat16Test, LossesAreNearThoseInFloat32) {
  std::vector<std::vector<json>> lines;
  for (const char* dtype : {"bfloat16", "float32"}) {
    TinyTraining training(dtype, GetParam().kind);
    training.spec.set_steps(3);
    training.spec.set_checkpoint_every(0);
    ModelConfig config = testing::tiny_moe_config(4, 2, 12, 0, GetParam().kind);
    GetParam().change(config, training.spec);
    training.set_model(config);
    training.validate(3);
    const Options job{.ranks = 2, .expert_parallel = 2};
    ASSERT_TRUE(training.run(job));
    lines.push_back(training.lines(job));
  }
  ASSERT_EQ(lines[0].size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    for (const char* loss : {"loss", "validation_loss"}) {
      if (!lines[1][i].contains(loss)) continue;
      const auto value = lines[1][i][loss].get<double>();
      EXPECT_NEAR(lines[0][i][loss].get<double>(), value, 2e-2 * value) << loss << " of step " << i + 1;
      EXPECT_NE(lines[0][i][loss], lines[1][i][loss]) << "computed in float";
    }
  }
}

}  // namespace
}  // namespace moe
