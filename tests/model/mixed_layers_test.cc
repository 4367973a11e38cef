// Mixtures whose config leaves some layers dense: what such a model holds, counts, computes and says of its load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/error.h"
#include "model/decoder.h"
#include "model/moe/aux_loss.h"
#include "model/moe/expert_load.h"
#include "model/tensor_specs.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::near;
using testing::random_batch;
using testing::random_decoder;
using testing::tiny_config;
using testing::tiny_moe_config;
using testing::with_dense_layer;

std::map<std::string, std::vector<int64_t>> shapes_of(const ModelConfig& config) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& spec : logical_tensor_specs(config)) shapes[spec.name] = spec.shape;
  return shapes;
}

/// A dense layer holds what that of the dense model does, and a mixture what that of the whole mixture does.
TEST(MixedLayersTest, EachLayerHasTheTensorsOfItsKind) {
  for (const char* kind : testing::kTinyKinds) {
    const ModelConfig mixture = tiny_moe_config(4, 2, 12, 8, kind);
    const auto mixed = shapes_of(with_dense_layer(mixture, 1)), dense = shapes_of(tiny_config(kind)),
               all = shapes_of(mixture);
    size_t in_layers = 0;
    for (const auto& [name, shape] : mixed) {
      const auto& same = name.starts_with("model.layers.1.") ? dense : all;
      ASSERT_TRUE(same.contains(name)) << kind << " " << name;
      EXPECT_EQ(shape, same.at(name)) << kind << " " << name;
      in_layers += name.starts_with("model.layers.");
    }
    size_t expected = 0;
    for (const auto& [name, shape] : dense) expected += name.starts_with("model.layers.1.");
    for (const auto& [name, shape] : all) expected += name.starts_with("model.layers.0.");
    EXPECT_EQ(in_layers, expected) << kind;
  }
  const auto phi = shapes_of(with_dense_layer(tiny_moe_config(3, 2, 12, 0, "phi"), 0));
  EXPECT_EQ(phi.at("model.layers.0.mlp.fc1.weight"), (std::vector<int64_t>{48, 32}));
  EXPECT_EQ(phi.at("model.layers.0.mlp.fc2.bias"), (std::vector<int64_t>{32}));
  EXPECT_EQ(phi.at("model.layers.1.mlp.experts.2.up_proj.weight"), (std::vector<int64_t>{12, 32}));
  EXPECT_EQ(phi.count("model.layers.0.mlp.router.weight"), 0u);
  EXPECT_EQ(phi.count("model.layers.0.mlp.output_bias"), 0u);
}

/// By hand, of the tiny LLaMA: embedding and head 61 x 32 each; a layer's attention 32 x 32 twice and 16 x 32 twice;
/// norms of 32. The dense FFN is 3 x 48 x 32 = 4,608; a mixture's router 4 x 32 and 4 experts of 3 x 12 x 32 = 1,152,
/// of which a token uses 2, and a shared one of 3 x 8 x 32 = 768.
TEST(MixedLayersTest, ParametersAreCountedByTheKindOfLayer) {
  const ModelConfig mixture = tiny_moe_config(4, 2, 12, 8);
  EXPECT_EQ(count_parameters(tiny_config()).total, 19424);
  EXPECT_EQ(count_parameters(mixture).total, 21216);
  EXPECT_EQ(count_parameters(mixture).active, 16608);
  for (const int64_t layer : {0, 1}) {
    EXPECT_EQ(count_parameters(with_dense_layer(mixture, layer)).total, 20320);
    EXPECT_EQ(count_parameters(with_dense_layer(mixture, layer)).active, 18016);
  }
}

TEST(MixedLayersTest, ConfigJsonSaysZeroAndIsReadBack) {
  nlohmann::json json = testing::tiny_json();
  json["model_type"] = "dense2moe";
  json["num_hidden_layers"] = 4;
  json["moe"] = {{"base_model_type", "llama"},
                 {"num_experts", 2},
                 {"top_k", 1},
                 {"expert_widths", {0, 24, {10, 20}, 0}},
                 {"shared_widths", {0, 8, 0, 0}},
                 {"output_scale", {1, 2, 3, 1}}};
  const ModelConfig config = parse_model_config(json.dump(), "mixed");
  for (const ModelConfig& read : {config, parse_model_config(to_json(config).dump(), "again")}) {
    EXPECT_THAT(read.moe->mixture_layers(), ElementsAre(1, 2));
    EXPECT_THAT(read.moe->dense_layers(), ElementsAre(0, 3));
    EXPECT_FALSE(read.is_mixture(0));
    EXPECT_TRUE(read.is_mixture(2));
    EXPECT_EQ(read.moe->expert_width(2, 0), 10);
    EXPECT_EQ(to_json(read)["moe"]["expert_widths"].dump(), "[0,24,[10,20],0]");
  }
  EXPECT_FALSE(tiny_config().is_mixture(0));
}

class MixedFamilyTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, MixedFamilyTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// The hidden states that layers leave, by number.
std::map<int64_t, at::Tensor> outputs_of(const Decoder& decoder, const TokenBatch& batch) {
  std::map<int64_t, at::Tensor> outputs;
  LocalDispatcher dispatcher;
  decoder.forward(batch, dispatcher, {.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
                    if (point == LayerPoint::kOutput) outputs[layer] = values.clone();
                  }});
  return outputs;
}

/// Of the mixtures alone, and of each token once, shared expert or not.
TEST(MixedLayersTest, AnOutputBiasIsAddedOncePerToken) {
  const at::NoGradGuard no_grad;
  const TokenBatch batch = random_batch({9, 1, 6}, 61, 3);
  for (const int64_t shared : {0, 8}) {
    ModelConfig config = with_dense_layer(tiny_moe_config(4, 2, 12, shared), 1);
    const auto without = outputs_of(random_decoder(config, at::kDouble), batch);
    config.moe->has_output_bias = true;
    const Decoder decoder = random_decoder(config, at::kDouble);
    at::Tensor bias;
    for (const Parameter& parameter : decoder.parameters()) {
      if (parameter.name == "model.layers.0.mlp.output_bias") bias = parameter.value;
    }
    ASSERT_TRUE(bias.defined());
    EXPECT_GT(bias.abs().max().item<double>(), 0.01);
    EXPECT_TRUE(near(outputs_of(decoder, batch).at(0) - without.at(0), bias.expand({16, 32}), 1e-12));
  }
}

/// Random weights depend on the names alone: the first layer is that of the dense model or of the mixture, bit for bit.
TEST_P(MixedFamilyTest, ALayerComputesWhatThatOfItsKindDoes) {
  const at::NoGradGuard no_grad;
  const TokenBatch batch = random_batch({9, 1, 6}, 61, 3);
  const ModelConfig mixture = tiny_moe_config(4, 2, 12, 8, GetParam());
  const auto dense_first = outputs_of(random_decoder(with_dense_layer(mixture, 0), at::kFloat), batch),
             dense_last = outputs_of(random_decoder(with_dense_layer(mixture, 1), at::kFloat), batch),
             dense = outputs_of(random_decoder(tiny_config(GetParam()), at::kFloat), batch),
             all = outputs_of(random_decoder(mixture, at::kFloat), batch);
  EXPECT_TRUE(at::equal(dense_first.at(0), dense.at(0)));
  EXPECT_TRUE(at::equal(dense_last.at(0), all.at(0)));
  EXPECT_FALSE(at::equal(dense_first.at(1), dense.at(1)));
  EXPECT_FALSE(at::equal(dense_last.at(1), all.at(1)));
}

/// d loss / d weight along a random direction of each parameter, against central differences, in double.
TEST_P(MixedFamilyTest, GradientsAreThoseOfFiniteDifferences) {
  const ModelConfig config = with_dense_layer(tiny_moe_config(4, 2, 12, 8, GetParam()), 0);
  Decoder decoder = random_decoder(config, at::kDouble);
  testing::require_all_gradients(decoder);
  const TokenBatch batch = random_batch({9, 6}, 61, 3);
  const at::Tensor labels = random_batch({15}, 61, 4).tokens_T;
  LocalDispatcher dispatcher;
  const auto loss = [&] { return decoder.token_losses(decoder.forward(batch, dispatcher).hidden_TD, labels).sum(); };
  loss().backward();
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (const Parameter& parameter : decoder.parameters()) {
    const at::Tensor direction = at::sin(at::arange(parameter.value.numel(), at::kDouble)).view_as(parameter.value);
    const double expected = (parameter.value.grad() * direction).sum().item<double>();
    parameter.value.add_(direction, kStep);
    const double above = loss().item<double>();
    parameter.value.add_(direction, -2 * kStep);
    const double below = loss().item<double>();
    parameter.value.add_(direction, kStep);
    EXPECT_NEAR((above - below) / (2 * kStep), expected, 1e-5 * std::max(1.0, std::abs(expected))) << parameter.name;
  }
}

TEST(MixedLoadTest, RowsAreOfLayersByTheirNumber) {
  ModelConfig config = tiny_config();
  config.num_layers = 4;
  MoeConfig moe;
  moe.expert_widths = {0, 12, 0, 12};
  config.moe = moe;
  const at::Tensor counts = at::tensor({1, 2, 3, 4, 5, 6}, at::kLong).view({2, 3});
  EXPECT_THAT(load_by_layer(config, counts),
              ElementsAre(IsEmpty(), ElementsAre(1, 2, 3), IsEmpty(), ElementsAre(4, 5, 6)));
  EXPECT_THAT(load_by_layer(config, {}), IsEmpty());
  EXPECT_THROW(load_by_layer(config, counts.narrow(0, 0, 1)), Internal);
}

/// Two tokens, two experts: the mean is over the layers that are mixtures, of which there is one.
TEST(MixedLoadTest, TheBalanceLossIsTheMeanOverTheMixtures) {
  const ModelConfig config = with_dense_layer(tiny_moe_config(4, 2, 12), 0);
  const at::NoGradGuard no_grad;
  const Decoder decoder = random_decoder(config, at::kDouble);
  LocalDispatcher dispatcher;
  const DecoderOutput out = decoder.forward(random_batch({30}, 61, 1), dispatcher);
  ASSERT_EQ(out.router.size(), 1u);
  const RouterStats& stats = out.router.front();
  double expected = 0;
  for (int64_t e = 0; e < 4; ++e) {
    expected += 4 * static_cast<double>(stats.tokens_per_expert_E[e].item<int64_t>()) / 60 *
                stats.probability_sum_E[e].item<double>() / 30;
  }
  EXPECT_NEAR(balance_loss(out.router, stacked_counts(out.router), 30, 2).item<double>(), expected, 1e-12);
}

}  // namespace
}  // namespace moe
