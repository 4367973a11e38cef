// One mixture trained alone to give what is wanted of its inputs.
#include "train/layer_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "model/feed_forward.h"
#include "model/layer_weights.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::random_normal;

/// A layer of random experts, and what another FFN gives.
struct Task {
  ModelConfig config = testing::tiny_moe_config(4, 2, 12, 6);
  std::vector<Parameter> parameters;
  std::vector<bool> is_trained;
  at::Tensor inputs_TD = random_normal({96, 32}, 1, at::kFloat), wanted_TD;
  int asked_to_stop = 0;

  explicit Task(const std::string& trained = "all") {
    config.moe->output_scale = {2, 2};
    uint64_t seed = 10;
    for (Parameter& parameter : allocate_layer(config, 1, at::kFloat, all_experts(config))) {
      const TensorPart part = parameter.id.part;
      const bool is_router = part == TensorPart::kRouter;
      if (!is_router && part != TensorPart::kGateUp && part != TensorPart::kGate && part != TensorPart::kUp &&
          part != TensorPart::kDown)
        continue;
      parameter.value.copy_(random_normal(parameter.value.sizes().vec(), ++seed, at::kFloat) * 0.2);
      parameters.push_back(parameter);
      is_trained.push_back(trained == "all" || is_router == (trained == "router"));
    }
    const FeedForwardWeights dense{random_normal({48, 32}, 2, at::kFloat) * 0.2,
                                   random_normal({48, 32}, 3, at::kFloat) * 0.2,
                                   random_normal({32, 48}, 4, at::kFloat) * 0.2};
    wanted_TD = feed_forward(dense, inputs_TD);
  }

  bool train(int64_t steps, double rate = 1e-2, int64_t batch = 32, uint64_t seed = 7, int stop_after = -1) {
    const at::NoGradGuard as_conversions_have;
    return train_layer({.config = config,
                        .layer = 1,
                        .parameters = parameters,
                        .is_trained = is_trained,
                        .inputs_TD = inputs_TD,
                        .wanted_TD = wanted_TD,
                        .steps = steps,
                        .learning_rate = rate,
                        .batch_tokens = batch,
                        .seed = seed,
                        .should_stop = [=, this] { return asked_to_stop++ == stop_after; }});
  }

  /// sum |wanted - given|^2 / sum |wanted|^2
  double error() const {
    LocalDispatcher dispatcher;
    const MoeFeedForward mixture = mixture_of(config, 1, parameters);
    const at::Tensor given = moe_layer(mixture.weights, mixture.options, inputs_TD, dispatcher, 1).y_TD;
    return ((given - wanted_TD).square().sum() / wanted_TD.square().sum()).item<double>();
  }

  std::map<std::string, at::Tensor> weights() const {
    std::map<std::string, at::Tensor> copies;
    for (const Parameter& parameter : parameters) copies[parameter.name] = parameter.value.clone();
    return copies;
  }
};

/// By name, whether each has other bits.
std::map<std::string, bool> changed(const std::map<std::string, at::Tensor>& before,
                                    const std::map<std::string, at::Tensor>& after) {
  std::map<std::string, bool> found;
  for (const auto& [name, value] : before) found[name] = !at::equal(value, after.at(name));
  return found;
}

TEST(LayerTrainingTest, LearnsWhatIsWanted) {
  Task task;
  const double before = task.error();
  EXPECT_TRUE(task.train(300));
  EXPECT_LT(task.error(), 0.35 * before);
  EXPECT_EQ(task.asked_to_stop, 300) << "before each step";
  for (const Parameter& parameter : task.parameters) EXPECT_FALSE(parameter.value.requires_grad()) << parameter.name;
}

TEST(LayerTrainingTest, WhatIsNotTrainedKeepsItsBits) {
  for (const std::string part : {"router", "experts"}) {
    Task task(part);
    const auto before = task.weights();
    const double error = task.error();
    task.train(30);
    EXPECT_LT(task.error(), error) << part;
    for (const auto& [name, is_other] : changed(before, task.weights()))
      EXPECT_EQ(is_other, (name == "model.layers.1.mlp.router.weight") == (part == "router")) << part << " " << name;
  }
}

TEST(LayerTrainingTest, IsAFunctionOfItsArguments) {
  Task first, again, other_seed, whole_text, more_than_all;
  first.train(20);
  again.train(20);
  other_seed.train(20, 1e-2, 32, 8);
  whole_text.train(20, 1e-2, 96);
  more_than_all.train(20, 1e-2, 1000, 8);
  const auto weights = first.weights();
  for (const auto& [name, is_other] : changed(weights, again.weights())) EXPECT_FALSE(is_other) << name;
  for (const auto& [name, is_other] : changed(weights, other_seed.weights())) EXPECT_TRUE(is_other) << name;
  // With all tokens in every step no order is drawn.
  for (const auto& [name, is_other] : changed(whole_text.weights(), more_than_all.weights()))
    EXPECT_FALSE(is_other) << name;
}

/// Narrower experts of a layer are filled up with zeros, which no step may change: they are cut off when it is written.
TEST(LayerTrainingTest, FillingStaysZero) {
  Task task;
  task.config.moe->set_expert_widths(1, {12, 5, 12, 12});
  for (const Parameter& parameter : task.parameters) {
    if (parameter.id.part == TensorPart::kGateUp) {
      parameter.value[1].slice(0, 5, 12).zero_();
      parameter.value[1].slice(0, 17, 24).zero_();
    } else if (parameter.id.part == TensorPart::kDown && parameter.is_expert) {
      parameter.value[1].slice(1, 5, 12).zero_();
    }
  }
  const auto before = task.weights();
  task.train(20);
  for (const Parameter& parameter : task.parameters) {
    if (parameter.id.part == TensorPart::kGateUp) {
      EXPECT_EQ(testing::max_abs(parameter.value[1].slice(0, 5, 12)), 0);
      EXPECT_EQ(testing::max_abs(parameter.value[1].slice(0, 17, 24)), 0);
    } else if (parameter.id.part == TensorPart::kDown && parameter.is_expert) {
      EXPECT_EQ(testing::max_abs(parameter.value[1].slice(1, 5, 12)), 0);
    }
  }
  for (const auto& [name, is_other] : changed(before, task.weights())) EXPECT_TRUE(is_other) << name;
}

TEST(LayerTrainingTest, StopsWhenAsked) {
  Task task;
  EXPECT_FALSE(task.train(300, 1e-2, 32, 7, /*stop_after=*/3));
  EXPECT_EQ(task.asked_to_stop, 4);
}

TEST(LayerTrainingTest, NothingToLearnChangesNothing) {
  Task task;
  task.wanted_TD.zero_();
  const auto before = task.weights();
  EXPECT_TRUE(task.train(5));
  for (const auto& [name, is_other] : changed(before, task.weights())) EXPECT_FALSE(is_other) << name;
}

TEST(LayerTrainingTest, WhatIsNotFiniteIsAnErrorWithItsLayer) {
  Task task;
  EXPECT_THAT([&] { task.train(50, 1e30); },
              ::testing::ThrowsMessage<Diverged>(
                  ::testing::AllOf(::testing::HasSubstr("the reconstruction of layer 1 diverged"),
                                   ::testing::HasSubstr("use a smaller reconstruction.learning_rate (1e+30)"))));
}

}  // namespace
}  // namespace moe
