// What is fitted to attention experts on text, and what the receipt says of them, against whole models in double.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "common/error.h"
#include "convert/attention_fixture.h"
#include "convert/conversion_fixture.h"
#include "convert/output_scale.h"
#include "model/layer_weights.h"
#include "model/norm.h"
#include "model/rope.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::add_text;
using testing::attention_spec;
using testing::convert;

/// What each layer of a model reads and gives.
struct WatchedLayer {
  at::Tensor input, attended, ffn_input, output;
};

struct WatchedModel {
  std::vector<WatchedLayer> layers;
  std::vector<RouterStats> attention_router;
};

WatchedModel watch(const fs::path& model, const TokenBatch& batch) {
  const at::NoGradGuard no_grad;
  const ModelDirectory directory(model);
  const Decoder decoder = load_decoder(directory, at::kDouble, all_experts(directory.config()));
  WatchedModel seen{std::vector<WatchedLayer>(directory.config().num_layers), {}};
  ForwardOptions options;
  options.keeps_routing = true;
  options.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
    if (point == LayerPoint::kInput) seen.layers[layer].input = values.clone();
    if (point == LayerPoint::kAttended) seen.layers[layer].attended = values.clone();
    if (point == LayerPoint::kFfnInput) seen.layers[layer].ffn_input = values.clone();
    if (point == LayerPoint::kOutput) seen.layers[layer].output = values.clone();
  };
  LocalDispatcher dispatcher;
  seen.attention_router = decoder.forward(batch, dispatcher, options).attention_router;
  return seen;
}

class AttentionMeasuresTest : public testing::ConversionTest {
 protected:
  explicit AttentionMeasuresTest(const std::string& kind = "llama")
      : ConversionTest(kind), config_(testing::tiny_config(kind)) {}

  /// What the dense attention and the dense FFN make of what a layer of another model read.
  at::Tensor dense_attention(int64_t layer, const at::Tensor& input, const TokenBatch& batch) const {
    const at::NoGradGuard no_grad;
    const Layer dense_layer = load_layer(ModelDirectory(dense()), layer, at::kDouble);
    const RopeAngles rope = RopeTable(config_, at::kDouble).angles(batch.cu_seqlens);
    return attention(config_, std::get<AttentionWeights>(dense_layer.attention), rope,
                     normalize(config_, dense_layer.input_norm, input), batch.cu_seqlens);
  }
  at::Tensor dense_ffn(int64_t layer, const at::Tensor& input) const {
    const at::NoGradGuard no_grad;
    const Layer dense_layer = load_layer(ModelDirectory(dense()), layer, at::kDouble);
    return feed_forward(std::get<FeedForwardWeights>(dense_layer.ffn), input);
  }

  ModelConfig config_;
};

double relative_error(const at::Tensor& wanted, const at::Tensor& given) {
  return ((wanted - given).square().sum() / wanted.square().sum()).item<double>();
}

/// The converted stream is the converted model: attention is fitted to what reaches it, the FFN to what the converted
/// attention leaves.
TEST_F(AttentionMeasuresTest, ScalesAreFittedInTheStreamOfTheConvertedModel) {
  for (const char* kv_mode : {"routed", "dense"}) {
    SCOPED_TRACE(kv_mode);
    v1::ConvertSpec spec = testing::convert_spec("independent_random", 4, 2, ids());
    *spec.mutable_attention() = attention_spec(4, 2).attention();
    spec.mutable_attention()->set_kv_mode(kv_mode);
    spec.mutable_attention()->mutable_router()->set_init("random_selection");
    spec.mutable_attention()->mutable_scale()->set_mode("least_squares");
    const fs::path output = folder_ / concat("of-", kv_mode);
    const json report = convert(spec, 3, dense(), output);
    const AttentionExperts experts = *ModelDirectory(output).config().moe->attention;
    const PackedBatch text = testing::calibration_rows(config_, ids(), 3, 1024);
    const TokenBatch batch{text.tokens_T, text.cu_seqlens};
    const WatchedModel converted = watch(output, batch), of_dense = watch(dense(), batch);
    for (int64_t layer = 0; layer < 2; ++layer) {
      SCOPED_TRACE(concat("layer ", layer));
      const WatchedLayer& real = converted.layers[layer];
      const json &of_ffn = report["layers"][layer], &told = of_ffn["attention"];
      const auto expect_fit = [](const at::Tensor& wanted, const at::Tensor& given, double scale, double error) {
        const at::Tensor routed = given / scale;
        EXPECT_NEAR(scale / ((wanted * routed).sum() / routed.square().sum()).item<double>(), 1, 1e-4);
        EXPECT_NEAR(error, relative_error(wanted, given), 1e-4);
        EXPECT_LT(error, 1);
      };
      EXPECT_EQ(told["output_scale"].get<double>(), experts.output_scale[layer]);
      expect_fit(dense_attention(layer, real.input, batch), real.attended - real.input, told["output_scale"],
                 told["relative_attention_error"]);
      expect_fit(dense_ffn(layer, real.ffn_input), real.output - real.attended, of_ffn["output_scale"],
                 of_ffn["relative_ffn_error"]);
      // Routers are made for the dense stream.
      const Layer dense_layer = load_layer(ModelDirectory(dense()), layer, at::kDouble);
      const at::Tensor router = ModelDirectory(output)
                                    .tensor(concat("model.layers.", layer, ".self_attn.router.weight"))
                                    .to(at::kDouble),
                       read = normalize(config_, dense_layer.input_norm, of_dense.layers[layer].input);
      EXPECT_NEAR(told["router_logit_deviation"].get<double>(),
                  at::matmul(read, router.t()).std(/*unbiased=*/false).item<double>(), 1e-4);
      EXPECT_NEAR(told["router_logit_deviation"].get<double>(), 1, 1e-3) << "calibrated";
      const at::Tensor& load = converted.attention_router[layer].tokens_per_expert_E;
      EXPECT_EQ(told["expert_load"].get<std::vector<int64_t>>(),
                std::vector<int64_t>(load.const_data_ptr<int64_t>(), load.const_data_ptr<int64_t>() + 4));
    }
  }
}

/// With scales of mode gap a layer of the converted model adds as much to its stream, in proportion, as the dense
/// layer to its own: attention and FFN, in the first layer and in the second, which sees other inputs than the dense
/// one. What every token uses is left out on both sides.
TEST_F(AttentionMeasuresTest, GapScalesAddToTheStreamWhatTheDenseLayerDoes) {
  for (const bool has_shared : {false, true}) {
    SCOPED_TRACE(has_shared);
    v1::ConvertSpec spec = has_shared ? testing::method_spec("residual", 4, 2, ids())
                                      : testing::convert_spec("independent_random", 4, 2, ids());
    *spec.mutable_attention() = attention_spec(4, 2).attention();
    spec.mutable_attention()->mutable_scale()->set_mode("gap");
    spec.mutable_scale()->set_mode("gap");
    const fs::path output = folder_ / (has_shared ? "shared" : "routed");
    const json report = convert(spec, 3, dense(), output);
    const PackedBatch text = testing::calibration_rows(config_, ids(), 3, 1024);
    const TokenBatch batch{text.tokens_T, text.cu_seqlens};
    const WatchedModel converted = watch(output, batch), of_dense = watch(dense(), batch);
    const at::NoGradGuard no_grad;
    const auto share = [](const at::Tensor& added, const at::Tensor& stream) {
      return (added.abs().sum() / stream.abs().sum()).item<double>();
    };
    for (int64_t layer = 0; layer < 2; ++layer) {
      SCOPED_TRACE(concat("layer ", layer));
      const WatchedLayer &real = converted.layers[layer], &wanted = of_dense.layers[layer];
      EXPECT_NEAR(share(real.attended - real.input, real.input) / share(wanted.attended - wanted.input, wanted.input),
                  1, 1e-4);
      at::Tensor routed = real.output - real.attended, left = wanted.output - wanted.attended;
      const auto ffn = std::get<MoeFeedForward>(load_layer(ModelDirectory(output), layer, at::kDouble).ffn);
      ASSERT_EQ(ffn.weights.shared.has_value(), has_shared);
      if (has_shared) {
        routed = routed - feed_forward(*ffn.weights.shared, real.ffn_input);
        left = left - feed_forward(*ffn.weights.shared, wanted.ffn_input);
      }
      EXPECT_NEAR(share(routed, real.attended) / share(left, wanted.attended), 1, 1e-4);
      EXPECT_NE(report["layers"][layer]["output_scale"].get<double>(), 1);
    }
  }
}

/// All routed experts at equal weights, from a router of zeros: the sum of those that are not always on is theirs times
/// as many as there are.
TEST_F(AttentionMeasuresTest, LeastSquaresFindsTheNumberOfRoutedExperts) {
  for (const int always_on : {0, 1}) {
    v1::ConvertSpec spec = attention_spec(4, 4 - always_on);
    spec.mutable_attention()->set_always_on(always_on);
    spec.mutable_attention()->mutable_router()->set_init("zero");
    spec.mutable_attention()->mutable_scale()->set_mode("least_squares");
    add_text(spec, ids());
    const json report = convert(spec, 1, dense(), folder_ / std::to_string(always_on));
    for (const json& layer : report["layers"]) {
      EXPECT_NEAR(layer["attention"]["output_scale"].get<double>(), 4 - always_on, 1e-4);
      EXPECT_LT(layer["attention"]["relative_attention_error"].get<double>(), 1e-9);
    }
  }
}

/// What the first layer is given does not depend on its scale.
TEST_F(AttentionMeasuresTest, LeastSquaresHasTheSmallestErrorOfAllModes) {
  for (const int always_on : {0, 1}) {
    std::map<std::string, double> error;
    for (const std::string& mode : scale_modes()) {
      v1::ConvertSpec spec = attention_spec(4, 2);
      spec.mutable_attention()->set_always_on(always_on);
      testing::set_scale_mode(*spec.mutable_attention()->mutable_scale(), mode);
      add_text(spec, ids());
      const json report = convert(spec, 1, dense(), folder_ / concat(mode, always_on));
      error[mode] = report["layers"][0]["attention"]["relative_attention_error"];
    }
    for (const auto& [mode, value] : error) EXPECT_GE(value, error["least_squares"]) << mode;
    EXPECT_LT(error["least_squares"], 1);
    EXPECT_GT(error["k"], error["least_squares"]);
  }
}

class AttentionReceiptTest : public AttentionMeasuresTest, public ::testing::WithParamInterface<const char*> {
 protected:
  AttentionReceiptTest() : AttentionMeasuresTest(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Kinds, AttentionReceiptTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// Of the rows that nothing was fitted to, in the stream of the written model.
TEST_P(AttentionReceiptTest, IsWhatTheWrittenModelGives) {
  for (const char* kv_mode : {"routed", "dense"}) {
    SCOPED_TRACE(kv_mode);
    v1::ConvertSpec spec = testing::convert_spec("independent_random", 4, 2, ids());
    *spec.mutable_attention() = attention_spec(4, 2).attention();
    spec.mutable_attention()->set_kv_mode(kv_mode);
    const fs::path output = folder_ / concat("of-", kv_mode);
    const json receipt = convert(spec, 1, dense(), output)["receipt"];
    EXPECT_LT(receipt["all"]["relative_logit_difference"].get<double>(), 1e-5) << "both parts are partitions";
    const json& of_attention = receipt["attention"];
    EXPECT_EQ(of_attention["experts"], 2);
    EXPECT_EQ(of_attention["always_on"], 0);
    ASSERT_EQ(of_attention["layers"].size(), 2U);
    const PackedBatch text = testing::held_out_rows(config_, ids(), 1, 1024);
    const TokenBatch batch{text.tokens_T, text.cu_seqlens};
    const WatchedModel converted = watch(output, batch);
    for (int64_t layer = 0; layer < 2; ++layer) {
      SCOPED_TRACE(concat("layer ", layer));
      const json& told = of_attention["layers"][layer];
      const WatchedLayer& real = converted.layers[layer];
      EXPECT_EQ(told["layer"], layer);
      const double error = relative_error(dense_attention(layer, real.input, batch), real.attended - real.input);
      EXPECT_GT(error, 1e-3) << "nothing was compared";
      EXPECT_NEAR(told["relative_attention_error"].get<double>(), error, 1e-4 * error);
      EXPECT_NEAR(receipt["layers"][layer]["relative_ffn_error"].get<double>(),
                  relative_error(dense_ffn(layer, real.ffn_input), real.output - real.attended), 1e-4);
      const RouterStats& routed = converted.attention_router[layer];
      const at::Tensor& load = routed.tokens_per_expert_E;
      EXPECT_EQ(told["expert_load"].get<std::vector<int64_t>>(),
                std::vector<int64_t>(load.const_data_ptr<int64_t>(), load.const_data_ptr<int64_t>() + 4));
      // Pairs of a query and a key before it, or itself, that are in one expert, over all such pairs.
      double visible = 0, slots = 0;
      for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
        const int64_t first = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
        for (int64_t t = first; t < end; ++t) {
          for (int64_t k = 0; k < 2; ++k, ++slots) {
            const int64_t expert = routed.routing.expert_ids_TK[t][k].item<int64_t>();
            const at::Tensor before = routed.routing.expert_ids_TK.slice(0, first, t + 1);
            visible += before.eq(expert).any(1).sum().item<double>() / static_cast<double>(t - first + 1);
          }
        }
      }
      EXPECT_NEAR(told["visible_keys"].get<double>(), std::string(kv_mode) == "dense" ? 1 : visible / slots, 1e-9);
    }
  }
}

/// Ties go to the lowest: of four experts one is chosen.
TEST_F(AttentionMeasuresTest, TheReceiptCountsDeadExperts) {
  v1::ConvertSpec spec = attention_spec(4, 1);
  spec.mutable_attention()->mutable_router()->set_init("zero");
  add_text(spec, ids());
  const json receipt = convert(spec, 1, dense(), out())["receipt"];
  EXPECT_EQ(receipt["attention"]["dead_experts"], 6);
  EXPECT_EQ(receipt["attention"]["layers"][0]["greatest_load"], 4);
  EXPECT_EQ(receipt["attention"]["layers"][0]["least_load"], 0);
  EXPECT_EQ(receipt["attention"]["layers"][1]["visible_keys"], 1) << "all tokens are in one expert";
  EXPECT_EQ(receipt["layers"], json::array()) << "FFNs are dense";
  EXPECT_EQ(receipt["dead_experts"], 0);
  EXPECT_FALSE(receipt["chosen"].contains("experts"));
  EXPECT_LT(receipt["all"]["relative_logit_difference"].get<double>(), 1e-5);
}

}  // namespace
}  // namespace moe
