// What the loop owes every recipe: frozen weights, groups, state, measures and output of its own.

#include "train/recipes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "checkpoint/model_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "train/recipes/language_model.h"
#include "train/train_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::TinyTraining;
using Options = TinyTraining::Options;

bool is_router(const std::string& name) {
  return name.find(".mlp.router.") != std::string::npos;
}

RecipeMaker language_model_in(const GroupOf& group_of) {
  return [group_of](const TrainRequest& request, Mesh& mesh) {
    return std::make_unique<LanguageModel>(request, mesh, group_of);
  };
}

RecipeMaker routers_alone() {
  return language_model_in(
      [](const Parameter& parameter) { return ParameterGroup{.is_trained = is_router(parameter.name)}; });
}

TEST(RecipesTest, EachResumesBitForBit) {
  for (const std::string& name : recipes().names()) {
    SCOPED_TRACE(name);
    const TinyTraining training;
    const Options whole{.job = "whole", .recipe = recipes().at(name)};
    ASSERT_TRUE(training.run(whole));
    training.expect_same(training.kill_and_resume({.job = "killed", .recipe = recipes().at(name)}, 5), whole);
  }
}

TEST(RecipesTest, WhatIsNotTrainedKeepsItsBytesAndHasNoMoments) {
  const TinyTraining training("float64");
  std::map<std::string, at::Tensor> of_one_rank;
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel));
    const std::string layout = concat("-", ranks, "-", expert_parallel);
    const Options whole{
        .job = "whole" + layout, .ranks = ranks, .expert_parallel = expert_parallel, .recipe = routers_alone()};
    ASSERT_TRUE(training.run(whole));
    const ModelDirectory before(training.folder() / "model"), after(training.output(whole));
    int routers = 0;
    for (const TensorSpec& spec : logical_tensor_specs(before.config())) {
      EXPECT_EQ(at::equal(after.tensor(spec.name), before.tensor(spec.name)), !is_router(spec.name)) << spec.name;
      if (!is_router(spec.name)) continue;
      ++routers;
      const auto [known, is_new] = of_one_rank.emplace(spec.name, after.tensor(spec.name).clone());
      EXPECT_TRUE(at::allclose(known->second, after.tensor(spec.name), 1e-9, 1e-12)) << spec.name;
    }
    EXPECT_EQ(routers, 2);
    int moments = 0;
    for (const auto& [name, tensor] : training.checkpoint(whole, 9, 1)) {
      if (!name.ends_with(".m") && !name.ends_with(".v")) continue;
      EXPECT_TRUE(is_router(name)) << name << " is saved, though its weight is not trained";
      ++moments;
    }
    EXPECT_EQ(moments, 4) << "two routers, two moments";

    Options killed = whole;
    killed.job = "killed" + layout;
    training.expect_same(training.kill_and_resume(killed, 5), whole);
  }
}

TEST(RecipesTest, OfWhatIsNotTrainedNoGradientIsComputed) {
  const TinyTraining training;
  std::atomic<int> looked{0};
  /// Looks at the gradients that the step left.
  class Looking final : public Recipe {
   public:
    Looking(std::unique_ptr<Recipe> recipe, std::atomic<int>& looked) : recipe_(std::move(recipe)), looked_(looked) {}
    TrainedParameters& parameters() override { return recipe_->parameters(); }
    std::map<std::string, std::string> data_digests() const override { return recipe_->data_digests(); }
    RecipeStep step(int64_t finished) override {
      const RecipeStep step = recipe_->step(finished);
      for (const Parameter& parameter : parameters().all) {
        EXPECT_EQ(parameter.value.grad().defined(), is_router(parameter.name)) << parameter.name;
        ++looked_;
      }
      return step;
    }
    std::optional<Validation> validate() override { return recipe_->validate(); }
    json state(int64_t finished) override { return recipe_->state(finished); }
    void restore(const json& scalars) override { recipe_->restore(scalars); }
    std::unique_ptr<RunSummary> summary() const override { return recipe_->summary(); }
    void write_output() override { recipe_->write_output(); }

   private:
    std::unique_ptr<Recipe> recipe_;
    std::atomic<int>& looked_;
  };
  ASSERT_TRUE(training.run({.recipe = [&](const TrainRequest& request, Mesh& mesh) {
    return std::make_unique<Looking>(routers_alone()(request, mesh), looked);
  }}));
  EXPECT_GT(looked, 100);
}

TEST(RecipesTest, ARecipeThatTrainsNothingIsRefusedOnAllRanks) {
  const TinyTraining training;
  try {
    training.run({.ranks = 2,
                  .recipe = language_model_in([](const Parameter&) { return ParameterGroup{.is_trained = false}; })});
    FAIL() << "it trained";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("is trained"));
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
  }
}

/// Language modelling that also keeps a running mean of the loss, to which each step's measure refers: a tensor and a
/// count of its own in the checkpoint, a measure, a metric and a file of its own.
class WithMeanLoss final : public Recipe {
 public:
  WithMeanLoss(const TrainRequest& request, Mesh& mesh)
      : request_(request), mesh_(mesh), model_(request, mesh), mean_(at::zeros({1}, at::kDouble)) {}

  TrainedParameters& parameters() override { return model_.parameters(); }
  std::map<std::string, std::string> data_digests() const override { return model_.data_digests(); }
  RecipeStep step(int64_t finished) override {
    RecipeStep step = model_.step(finished);
    mean_.mul_(0.9).add_(0.1 * step.loss);
    step.statistics["mean_loss"] = mean_.item<double>();
    step.statistics["seen"] = static_cast<double>(++seen_);
    return step;
  }
  std::optional<Validation> validate() override { return model_.validate(); }
  json state(int64_t finished) override {
    json state = model_.state(finished);
    state["seen"] = seen_;
    return state;
  }
  std::vector<TensorRange> state_tensors() override {
    return {whole_tensor("mean_loss", mean_, mesh_.world().rank() == 0)};
  }
  void restore(const json& scalars) override {
    model_.restore(scalars);
    seen_ = scalars.at("seen");
  }
  std::unique_ptr<RunSummary> summary() const override {
    class Summary final : public RunSummary {
     public:
      void add(const json& line) override { mean_ = line["mean_loss"]; }
      void finish(json& metrics, json& details) override {
        metrics["mean_loss"] = mean_;
        details["kind"] = "with a mean";
      }

     private:
      json mean_;
    };
    return std::make_unique<Summary>();
  }
  void write_output() override {
    model_.write_output();
    agree(mesh_.world(), "write the mean", [this] {
      if (mesh_.world().rank() == 0)
        write_file_atomically(request_.output / "mean.json", json(mean_.item<double>()).dump());
    });
  }

 private:
  const TrainRequest& request_;
  Mesh& mesh_;
  LanguageModel model_;
  at::Tensor mean_;
  int64_t seen_ = 0;
};

TEST(RecipesTest, ARecipeHasStateMeasuresAndOutputOfItsOwn) {
  const TinyTraining training;
  const RecipeMaker maker = [](const TrainRequest& request, Mesh& mesh) {
    return std::make_unique<WithMeanLoss>(request, mesh);
  };
  const Options whole{.job = "whole", .ranks = 2, .expert_parallel = 2, .recipe = maker};
  const std::optional<TrainOutcome> outcome = training.run(whole);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->metrics.at("mean_loss"), training.lines(whole).back()["mean_loss"].get<double>());
  EXPECT_EQ(outcome->details["kind"], "with a mean");
  EXPECT_EQ(read_file(training.output(whole) / "mean.json"), json(outcome->metrics.at("mean_loss")).dump());
  EXPECT_EQ(training.checkpoint(whole, 9, 1).count("mean_loss"), 1U);
  Options killed = whole;
  killed.job = "killed";
  const Options resumed = training.kill_and_resume(killed, 5);
  training.expect_same(resumed, whole);
  EXPECT_EQ(training.lines(resumed).back()["seen"], 10);
}

}  // namespace
}  // namespace moe
