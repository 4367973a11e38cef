// What a layer shows, takes and measures on its way: observers, masks, statistics.
#include "model/layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "common/error.h"
#include "model/decoder.h"
#include "testing/compare.h"
#include "testing/random_tensor.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::near;
using testing::random_decoder;
using testing::random_normal;

const std::vector<int64_t> kLengths{9, 1, 6};
constexpr int64_t kTokens = 16;

at::Tensor parameter(const Decoder& decoder, const TensorId& id) {
  for (const Parameter& parameter : decoder.parameters()) {
    if (parameter.id == id) return parameter.value;
  }
  throw Internal("no such parameter");
}

at::Tensor hidden_of(const Decoder& decoder, const ForwardOptions& options = {}) {
  LocalDispatcher dispatcher;
  return decoder.forward(testing::random_batch(kLengths, 61, 3), dispatcher, options).hidden_TD;
}

using Seen = std::map<std::pair<int64_t, LayerPoint>, at::Tensor>;

class LayerTest : public ::testing::TestWithParam<const char*> {
 protected:
  static ModelConfig dense() { return testing::tiny_config(GetParam()); }
  static ModelConfig mixture() { return testing::tiny_moe_config(4, 2, 12, 8, GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Kinds, LayerTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(LayerTest, AnObserverSeesEveryPointOnceAndChangesNoBit) {
  const at::NoGradGuard no_grad;
  for (const ModelConfig& config : {dense(), mixture()}) {
    const Decoder decoder = random_decoder(config, at::kFloat);
    Seen seen;
    std::vector<std::pair<int64_t, LayerPoint>> order;
    const at::Tensor hidden =
        hidden_of(decoder, {.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
                    order.emplace_back(layer, point);
                    seen[order.back()] = values.clone();
                  }});
    EXPECT_TRUE(at::equal(hidden, hidden_of(decoder)));
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
    const size_t points = config.moe ? 4 : config.is_gated ? 6 : 5;
    EXPECT_EQ(order.size(), 2 * points) << "two layers; a mixture has no gates and activations of all tokens";
    EXPECT_EQ(seen.size(), order.size());

    const at::Tensor tokens = testing::random_batch(kLengths, 61, 3).tokens_T;
    EXPECT_TRUE(at::equal(seen.at({0, LayerPoint::kInput}),
                          parameter(decoder, {TensorPart::kEmbedding}).index_select(0, tokens)));
    EXPECT_TRUE(at::equal(seen.at({0, LayerPoint::kOutput}), seen.at({1, LayerPoint::kInput})));
    for (int64_t layer = 0; layer < 2; ++layer) {
      const TensorId norm{config.is_parallel ? TensorPart::kInputNorm : TensorPart::kPostAttentionNorm, layer};
      const NormWeights weights{parameter(decoder, norm),
                                config.norm == NormKind::kLayer ? parameter(decoder, norm.bias()) : at::Tensor()};
      const LayerPoint read = config.is_parallel ? LayerPoint::kInput : LayerPoint::kAttended;
      EXPECT_TRUE(
          at::equal(seen.at({layer, LayerPoint::kFfnInput}), normalize(config, weights, seen.at({layer, read}))));
      if (config.moe) continue;
      const TensorId down{TensorPart::kDown, layer};
      const at::Tensor& activations = seen.at({layer, LayerPoint::kFfnActivations});
      if (config.is_gated) {
        const at::Tensor &gates = seen.at({layer, LayerPoint::kFfnGates}), &x = seen.at({layer, LayerPoint::kFfnInput});
        at::Tensor up = at::matmul(x, parameter(decoder, {TensorPart::kUp, layer}).t());
        if (config.mlp_bias) up = up + parameter(decoder, TensorId{TensorPart::kUp, layer}.bias());
        EXPECT_TRUE(near(at::silu(gates) * up, activations, 1e-5));
      }
      at::Tensor output = at::matmul(activations, parameter(decoder, down).t());
      if (config.mlp_bias) output = output + parameter(decoder, down.bias());
      EXPECT_TRUE(near(seen.at({layer, LayerPoint::kAttended}) + output, seen.at({layer, LayerPoint::kOutput}), 1e-5));
    }
  }
}

TEST_P(LayerTest, AMaskOfOnesChangesNoBitAndOneOfZerosLeavesTheBias) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = random_decoder(dense(), at::kFloat);
  const at::Tensor plain = hidden_of(decoder);
  const auto with = [&](const at::Tensor& mask) {
    return hidden_of(decoder, {.neuron_mask = [&](int64_t layer, const at::Tensor& x) {
                       EXPECT_EQ(x.sizes(), (std::vector<int64_t>{kTokens, 32}));
                       return layer == 1 ? mask : at::Tensor();
                     }});
  };
  EXPECT_TRUE(at::equal(with(at::ones({48})), plain));
  EXPECT_TRUE(at::equal(with(at::ones({kTokens, 48})), plain));
  at::Tensor one_token = at::ones({kTokens, 48});
  one_token[4].zero_();
  const at::Tensor masked = with(one_token);
  EXPECT_EQ(testing::rows_that_differ(masked, plain), 1) << "a token's mask is its own";

  Decoder without = random_decoder(dense(), at::kFloat);
  parameter(without, {TensorPart::kDown, 1}).zero_();
  EXPECT_TRUE(near(with(at::zeros({48})), hidden_of(without), 1e-6));
  EXPECT_TRUE(near(masked[4], hidden_of(without)[4], 1e-6));
}

// The gradient of masks of both layers, in float64: against differences of the loss, and against what an observer
// finds at the activations that were masked.
TEST_P(LayerTest, GradientsReachMasksAndObservedActivations) {
  const Decoder decoder = random_decoder(dense(), at::kDouble);
  const at::Tensor weights = random_normal({kTokens, 32}, 11);
  std::vector<at::Tensor> masks;
  for (uint64_t layer = 0; layer < 2; ++layer)
    masks.push_back((1 + 0.3 * random_normal({kTokens, 48}, 20 + layer)).requires_grad_(true));
  Seen seen;
  const auto loss = [&](bool observes) {
    ForwardOptions options{.neuron_mask = [&](int64_t layer, const at::Tensor&) { return masks[layer]; }};
    if (observes) {
      options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
        if (point != LayerPoint::kFfnActivations) return;
        values.retain_grad();
        seen[{layer, point}] = values;
      };
    }
    return (hidden_of(decoder, options) * weights).sum();
  };
  loss(true).backward();
  constexpr double kStep = 1e-5;
  for (int64_t layer = 0; layer < 2; ++layer) {
    const at::Tensor& activations = seen.at({layer, LayerPoint::kFfnActivations});
    const at::Tensor unmasked = activations.detach() / masks[layer].detach();
    EXPECT_TRUE(near(masks[layer].grad(), activations.grad() * unmasked, 1e-10)) << "layer " << layer;
    const at::NoGradGuard no_grad;
    for (const auto& [token, neuron] : {std::pair<int64_t, int64_t>{0, 0}, {9, 17}, {15, 47}}) {
      const at::Tensor value = masks[layer][token][neuron];
      const double at = value.item<double>();
      value.fill_(at + kStep);
      const double above = loss(false).item<double>();
      value.fill_(at - kStep);
      const double below = loss(false).item<double>();
      value.fill_(at);
      const double expected = (above - below) / (2 * kStep);
      EXPECT_NEAR(masks[layer].grad()[token][neuron].item<double>(), expected, 1e-6 * (1 + std::abs(expected)));
    }
  }
}

TEST_P(LayerTest, AMixtureHasNoNeuronsToMask) {
  const Decoder decoder = random_decoder(mixture(), at::kFloat);
  EXPECT_THROW(hidden_of(decoder, {.neuron_mask = [](int64_t, const at::Tensor&) { return at::Tensor(); }}), Internal);
}

// Entropy by loops, from what the routers read.
TEST_P(LayerTest, AMixtureMeasuresTheEntropyOfItsRouters) {
  const at::NoGradGuard no_grad;
  const Decoder decoder = random_decoder(mixture(), at::kDouble);
  double entropy = 0;
  LayerStatistics statistics;
  ForwardOptions options{.statistics = &statistics};
  options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& x) {
    if (point != LayerPoint::kFfnInput) return;
    const at::Tensor p = at::softmax(at::matmul(x, parameter(decoder, {TensorPart::kRouter, layer}).t()), 1);
    for (int64_t i = 0; i < p.numel(); ++i) {
      const double share = p.flatten()[i].item<double>();
      entropy -= share * std::log(share);
    }
  };
  hidden_of(decoder, options);
  hidden_of(decoder, options);
  const auto means = statistics.means(statistics.totals());
  EXPECT_NEAR(means.at("router_entropy"), entropy / (2 * 2 * kTokens), 1e-12);
  EXPECT_TRUE(near(statistics.totals()[0], at::tensor({entropy, 2.0 * 2 * kTokens}, at::kDouble), 1e-12));
  LayerStatistics none;
  hidden_of(random_decoder(dense(), at::kFloat), {.statistics = &none});
  EXPECT_EQ(none.totals().sizes(), (std::vector<int64_t>{0, 2}));
}

TEST(LayerStatisticsTest, MeansAreOverAllThatWasCountedInTheOrderOfNames) {
  LayerStatistics statistics;
  const at::Tensor sum = at::full({}, 3.0, at::kFloat).requires_grad_(true);
  statistics.add("late", sum, 2);
  statistics.add("early", at::full({}, 5.0, at::kDouble), 0);
  statistics.add("late", sum * 2, 4);
  EXPECT_FALSE(statistics.totals().requires_grad());
  EXPECT_TRUE(at::equal(statistics.totals(), at::tensor({9.0, 6.0, 5.0, 0.0}, at::kDouble).view({2, 2})));
  EXPECT_EQ(statistics.means(statistics.totals() * 2), (std::map<std::string, double>{{"early", 0.0}, {"late", 1.5}}))
      << "two ranks alike";
}

}  // namespace
}  // namespace moe
