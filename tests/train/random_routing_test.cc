// Trainings of mixtures whose experts are chosen at random: LLaMA-MoE v1's RandomLearnable gate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "checkpoint/model_directory.h"
#include "common/error.h"
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

void choose_at_random(TinyTraining& training) {
  training.spec.set_routing("random");
  training.spec.set_balance("none");
  training.spec.set_micro_steps(2);
}

TEST(RandomRoutingTest, IsTheSameOnOneRankAndOnMoreWithExpertsSpread) {
  TinyTraining training("float64");
  choose_at_random(training);
  v1::DataSource* held_out = training.spec.add_validation();
  held_out->set_path(training.folder() / "held.jsonl");
  held_out->set_weight(1);
  held_out->set_domain("held");
  training.spec.set_validate_every(5);
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
      EXPECT_EQ(lines[i].contains("validation_loss"), expected[i].contains("validation_loss"));
      if (!lines[i].contains("validation_loss")) continue;
      EXPECT_NEAR(lines[i]["validation_loss"].get<double>() / expected[i]["validation_loss"].get<double>(), 1, 1e-9);
    }
    const ModelDirectory b(training.output(many));
    for (const TensorSpec& spec : logical_tensor_specs(a.config()))
      EXPECT_TRUE(testing::near(b.tensor(spec.name), a.tensor(spec.name), 1e-6)) << spec.name;
  }
  // The router weighs what it did not choose, and learns from that.
  EXPECT_FALSE(
      at::equal(a.tensor("model.layers.0.mlp.router.weight"), source.tensor("model.layers.0.mlp.router.weight")));
  EXPECT_LT(expected.back()["loss"], expected.front()["loss"]);
}

TEST(RandomRoutingTest, EveryStepDrawsAnew) {
  TinyTraining training;
  choose_at_random(training);
  const Options run{.job = "run", .ranks = 2};
  ASSERT_TRUE(training.run(run));
  std::vector<double> sums(4);
  double routed = 0;
  std::set<json> loads;
  for (const json& line : training.lines(run)) {
    loads.insert(line["expert_load"]);
    for (size_t e = 0; e < 4; ++e) sums[e] += line["expert_load"][0][e].get<double>();
  }
  for (const double sum : sums) routed += sum;
  EXPECT_EQ(loads.size(), training.lines(run).size()) << "a step repeats the choice of another";
  for (const double sum : sums) EXPECT_NEAR(sum, routed / 4, 5 * std::sqrt(routed / 8)) << "five standard errors";
}

TEST(RandomRoutingTest, ResumesBitForBit) {
  TinyTraining training;
  choose_at_random(training);
  training.expect_resumes_bit_for_bit();
}

TEST(RandomRoutingTest, ADenseModelIsRefused) {
  TinyTraining training;
  choose_at_random(training);
  fs::remove_all(training.folder() / "model");
  testing::write_tiny_model(training.folder() / "model", testing::tiny_config(), 5, at::kFloat);
  try {
    training.run({.ranks = 2});
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("routing 'random'"));
  }
}

}  // namespace
}  // namespace moe
