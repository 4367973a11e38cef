// Every kind of block goes through the whole of training: read, trained on one and on two ranks, checkpointed, resumed,
// written back.
#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using testing::TinyTraining;
using Options = TinyTraining::Options;

class FamiliesTrainTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, FamiliesTrainTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(FamiliesTrainTest, ResumedTrainingEndsWithTheSameBits) {
  const TinyTraining training("float32", GetParam());
  const Options whole{.job = "whole"};
  ASSERT_TRUE(training.run(whole));
  training.expect_same(training.kill_and_resume({.job = "killed"}, 5), whole);
}

TEST_P(FamiliesTrainTest, TwoRanksWithExpertsSpreadWriteTheSameModel) {
  const TinyTraining training("float64", GetParam());
  const Options one{.job = "one"}, two{.job = "two", .ranks = 2, .expert_parallel = 2};
  const std::optional<TrainOutcome> first = training.run(one), second = training.run(two);
  ASSERT_TRUE(first && second);
  EXPECT_NEAR(second->metrics.at("loss"), first->metrics.at("loss"), 1e-9);
  EXPECT_LT(first->metrics.at("loss"), first->metrics.at("loss_first"));
  training.expect_alike_model(two, one);
  const ModelDirectory source(training.folder() / "model"), a(training.output(one));
  const ModelConfig &config = a.config(), expected = testing::tiny_moe_config(4, 2, 12, 0, GetParam());
  EXPECT_EQ(config.model_type, expected.model_type);
  EXPECT_EQ(config.mlp_bias, expected.mlp_bias);
  EXPECT_EQ(config.is_gated, expected.is_gated);
  EXPECT_EQ(config.is_parallel, expected.is_parallel);
  int64_t unchanged = 0;
  for (const TensorSpec& spec : logical_tensor_specs(expected))
    unchanged += at::equal(a.tensor(spec.name), source.tensor(spec.name));
  EXPECT_EQ(unchanged, 0) << "every tensor is trained, biases and norms too";
}

/// A layer that is dense is trained, kept and read back as one, by any number of ranks.
TEST_P(FamiliesTrainTest, AMixedModelIsTheSameOnTwoRanksAndGoesOnOnOne) {
  for (const int64_t dense_layer : {0, 1}) {
    SCOPED_TRACE(dense_layer);
    const TinyTraining training("float64", GetParam(), dense_layer);
    const Options one{.job = "one"}, two{.job = "two", .ranks = 2, .expert_parallel = 2},
        killed{.job = "killed", .ranks = 2, .expert_parallel = 2}, resumed{.job = "killed", .attempt = 2};
    const std::optional<TrainOutcome> first = training.run(one), second = training.run(two);
    training.run_and_kill(killed, 5);
    const std::optional<TrainOutcome> third = training.run(resumed);
    ASSERT_TRUE(first && second && third);
    training.expect_alike_model(two, one);
    training.expect_alike_model(resumed, one);
    const ModelDirectory source(training.folder() / "model"), a(training.output(one));
    ASSERT_TRUE(a.config().moe);
    EXPECT_FALSE(a.config().is_mixture(dense_layer));
    for (const TensorSpec& spec : logical_tensor_specs(source.config())) {
      EXPECT_FALSE(at::equal(a.tensor(spec.name), source.tensor(spec.name))) << spec.name << " was not trained";
    }
    for (const nlohmann::json& line : training.lines(one)) {
      ASSERT_EQ(line["expert_load"].size(), 2U);
      EXPECT_EQ(line["expert_load"][dense_layer].size(), 0U);
      EXPECT_EQ(line["expert_load"][1 - dense_layer].size(), 4U);
    }
    EXPECT_EQ(first->details["expert_load"][1 - dense_layer].size(), 4U);
    EXPECT_GE(first->metrics.at("load_max_over_mean"), 1);
  }
}

}  // namespace
}  // namespace moe
