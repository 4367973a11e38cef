// Whole conversions with every way in which a router begins and decides, and with every method's published choices: the
// same files at any number of ranks, a model that is read back, and a receipt that is what it gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "convert/router_init.h"
#include "pipeline/defaults.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::convert;
using ::testing::HasSubstr;

class RoutedConversionTest : public testing::ConversionTest {
 protected:
  /// Converts at 1, 2 and 4 ranks and holds the receipt of a conversion against a run of the model, without noise.
  void expect_sound(const v1::ConvertSpec& spec) {
    expect_same_files_at_any_ranks(spec, {"model.safetensors", "config.json", "conversion.json"});
    report_ = convert(spec, 1, dense(), out());
    const PackedBatch batch = testing::held_out_rows(testing::tiny_config(), ids(), 1, spec.calibration().tokens());
    const at::Tensor log_p =
        at::log_softmax(testing::logits_of(out(), {batch.tokens_T, batch.cu_seqlens}, at::kDouble), -1);
    const at::Tensor is_target = batch.labels_T.ge(0);
    const at::Tensor losses = -log_p.gather(1, batch.labels_T.clamp_min(0).unsqueeze(1)).squeeze(1) * is_target;
    const double loss = losses.sum().item<double>() / is_target.sum().item<double>();
    EXPECT_TRUE(std::isfinite(loss));
    EXPECT_NEAR(report_["receipt"]["chosen"]["loss"].get<double>(), loss, 1e-6 * loss);
  }

  json report_;
};

/// An init, a gate and a noise.
using RouterForm = std::tuple<std::string, const char*, const char*>;

class EveryRouterFormTest : public RoutedConversionTest, public ::testing::WithParamInterface<RouterForm> {};
INSTANTIATE_TEST_SUITE_P(Forms, EveryRouterFormTest,
                         ::testing::Combine(::testing::ValuesIn(router_inits().names()),
                                            ::testing::Values("linear", "mlp"),
                                            ::testing::Values("none", "learned", "gumbel")),
                         [](const auto& test) {
                           return concat(std::get<0>(test.param), "_", std::get<1>(test.param), "_",
                                         std::get<2>(test.param));
                         });

TEST_P(EveryRouterFormTest, IsConvertedReadAndMeasured) {
  const auto& [init, gate, noise] = GetParam();
  v1::ConvertSpec spec = testing::convert_spec("independent_random", 6, 2, ids());
  spec.mutable_router()->set_init(init);
  spec.mutable_router()->set_gate(gate);
  spec.mutable_router()->set_noise(noise);
  expect_sound(spec);

  const ModelDirectory model(out());
  EXPECT_EQ(model.config().moe->router, gate);
  EXPECT_EQ(model.config().moe->router_noise, noise);
  const SafetensorsFile weights(out() / "model.safetensors");
  for (int64_t layer = 0; layer < 2; ++layer) {
    const auto has = [&](const char* tensor) {
      return weights.find(concat("model.layers.", layer, ".mlp.router.", tensor)) != nullptr;
    };
    EXPECT_TRUE(has("weight"));
    EXPECT_EQ(has("out.weight"), std::string(gate) == "mlp");
    EXPECT_EQ(has("noise.weight"), std::string(noise) == "learned");
    const json& of_layer = report_["layers"][layer];
    EXPECT_EQ(of_layer.contains("router_recall"), init == "distilled");
    EXPECT_EQ(of_layer.contains("router_distillation"), init == "distilled");
    // Two of six chosen blindly find a third of two.
    EXPECT_GT(of_layer.value("router_recall", 1.0), 0.4);
  }
}

/// A method, an option of its own, and a choice that is not the default.
struct Choice {
  std::string method, option, value;
};
std::vector<Choice> other_choices() {
  std::vector<Choice> choices;
  for (const std::string& method : conversion_methods().names()) {
    for (const MethodOption& option : conversion_methods().at(method).options) {
      for (const std::string& value : option.choices) {
        // Routers of merged models are made of prompts, which merge_test.cc has.
        if (value != option.fallback && concat(method, ".", option.name) != "merge.router")
          choices.push_back({method, option.name, value});
      }
    }
  }
  return choices;
}

class EveryChoiceTest : public RoutedConversionTest, public ::testing::WithParamInterface<Choice> {};
INSTANTIATE_TEST_SUITE_P(Choices, EveryChoiceTest, ::testing::ValuesIn(other_choices()), [](const auto& test) {
  return concat(test.param.method, "_", test.param.option, "_", test.param.value);
});

TEST_P(EveryChoiceTest, IsConvertedReadAndMeasured) {
  v1::ConvertSpec spec = testing::method_spec(GetParam().method, 6, 2, ids());
  testing::set_option(spec, GetParam().option, GetParam().value);
  if (GetParam().option == "scaled") testing::set_option(spec, "variant", "granular");
  expect_sound(spec);
}

class PublishedConversionTest : public RoutedConversionTest, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, PublishedConversionTest, ::testing::ValuesIn(conversion_methods().names()),
                         [](const auto& test) { return test.param; });

TEST_P(PublishedConversionTest, IsConvertedReadAndMeasured) {
  v1::PipelineSpec pipeline;
  v1::ConvertSpec& given = *pipeline.add_stages()->mutable_convert();
  *given.mutable_ffn() = testing::sizes_of(GetParam(), 48, 6, 2).value();
  given.set_preset("published");
  given.mutable_calibration()->set_tokens(1024);
  testing::add_text(given, ids());
  const v1::ConvertSpec spec = effective_spec(pipeline).stages(0).convert();
  EXPECT_FALSE(spec.router().init().empty());
  expect_sound(spec);
}

TEST_F(RoutedConversionTest, ARouterThatIsTaughtNeedsWhatItCanBeTaught) {
  v1::ConvertSpec spec = testing::convert_spec("independent_random", 6, 2, ids());
  spec.mutable_router()->set_init("distilled");
  spec.mutable_router()->set_gate("product");
  EXPECT_THAT(refusal(spec), HasSubstr("router.gate is 'product', which router.init distilled does not train"));
  spec = testing::method_spec("upcycle", 6, 2, ids());
  testing::set_option(spec, "variant", "granular");
  testing::set_option(spec, "groups", "2");
  spec.mutable_router()->set_init("distilled");
  EXPECT_THAT(refusal(spec), HasSubstr("have the same neurons, so that no text tells them apart"));
}

}  // namespace
}  // namespace moe
