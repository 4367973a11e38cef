// Trainings of mixtures whose experts are chosen at random: LLaMA-MoE v1's RandomLearnable gate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "testing/tiny_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

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
  training.validate(5);
  training.expect_alike_on({{2, 1}, {2, 2}, {4, 2}});
  // The router weighs what it did not choose, and learns from that.
  const char* const router = "model.layers.0.mlp.router.weight";
  EXPECT_FALSE(at::equal(ModelDirectory(training.output({.job = "one"})).tensor(router),
                         ModelDirectory(training.folder() / "model").tensor(router)));
  const std::vector<json> lines = training.lines({.job = "one"});
  EXPECT_LT(lines.back()["loss"], lines.front()["loss"]);
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

/// What validations say of experts is of those that are chosen there.
TEST(RandomRoutingTest, ValidationsAreRandomToo) {
  TinyTraining training;
  training.validate(0);
  training.spec.set_steps(1);
  training.spec.set_learning_rate(1e-12);
  const Options by_router{.job = "router"}, by_lot{.job = "lot"};
  ASSERT_TRUE(training.run(by_router));
  choose_at_random(training);
  ASSERT_TRUE(training.run(by_lot));
  const json router = training.lines(by_router).front(), lot = training.lines(by_lot).front();
  EXPECT_NEAR(router["expert_vitality"][0]["weight_norm"][0], lot["expert_vitality"][0]["weight_norm"][0], 1e-5);
  EXPECT_NE(router["expert_vitality"][0]["output_share"], lot["expert_vitality"][0]["output_share"]);
  EXPECT_NE(router["validation_loss"], lot["validation_loss"]);
}

TEST(RandomRoutingTest, ResumesBitForBit) {
  TinyTraining training;
  choose_at_random(training);
  training.expect_resumes_bit_for_bit();
}

TEST(RandomRoutingTest, ADenseModelIsRefused) {
  TinyTraining training;
  choose_at_random(training);
  training.set_model(testing::tiny_config());
  EXPECT_THAT([&] { training.run({.ranks = 2}); },
              ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("routing 'random'")));
}

}  // namespace
}  // namespace moe
