// Conversions of some layers (ffn.layers): the others stay what they were, and the text goes through all of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "model/feed_forward.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::convert;
using ::testing::ElementsAre;

/// Four layers, so that there are dense ones before, between and after mixtures.
ModelConfig four_layers(const std::string& kind) {
  json config = testing::tiny_json(kind);
  config["num_hidden_layers"] = 4;
  return parse_model_config(config.dump(), "four layers");
}

v1::ConvertSpec spec_of(const std::string& method, int experts, int top_k, const std::vector<std::string>& layers,
                        const fs::path& calibration = {}) {
  v1::ConvertSpec spec = testing::convert_spec(method, experts, top_k, calibration);
  spec.mutable_ffn()->mutable_layers()->Add(layers.begin(), layers.end());
  return spec;
}

/// The same in the sizes that a method of the list takes.
v1::ConvertSpec spec_of_listed(const std::string& method, int units, int top_k, const std::vector<std::string>& layers,
                               const fs::path& calibration = {}) {
  v1::ConvertSpec spec = testing::method_spec(method, units, top_k, calibration);
  spec.mutable_ffn()->mutable_layers()->Add(layers.begin(), layers.end());
  return spec;
}

struct Choice {
  const char* name;
  std::vector<std::string> items;
  std::vector<int64_t> mixtures, dense;
};
const Choice kChoices[] = {{"first", {"0"}, {0}, {1, 2, 3}},
                           {"between", {"1", "3"}, {1, 3}, {0, 2}},
                           {"ends_dense", {"1-2"}, {1, 2}, {0, 3}},
                           {"last", {"2-"}, {2, 3}, {0, 1}}};

class MixedConversionTest : public ::testing::Test {
 protected:
  void make(const std::string& kind, at::ScalarType dtype = at::kFloat) {
    testing::write_dense_model(dense(), four_layers(kind), 11, dtype);
    if (!fs::exists(ids())) testing::write_calibration(ids(), 60, testing::tiny_config().vocab_size, 12);
  }
  fs::path dense() const { return folder_ / "dense"; }
  fs::path ids() const { return folder_ / "ids.jsonl"; }
  fs::path out() const { return folder_ / "out"; }
  testing::TempDir folder_;
};

/// A method and a kind of tiny model.
class EveryMixedConversionTest : public MixedConversionTest,
                                 public ::testing::WithParamInterface<std::tuple<std::string, const char*>> {
 protected:
  void SetUp() override {
    const ConversionMethod& row = conversion_methods().at(method());
    if (row.refusal && !row.refusal(four_layers(kind())).empty()) GTEST_SKIP() << row.refusal(four_layers(kind()));
  }
  static const std::string& method() { return std::get<0>(GetParam()); }
  static const char* kind() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Methods, EveryMixedConversionTest,
                         ::testing::Combine(::testing::ValuesIn(conversion_methods().names()),
                                            ::testing::ValuesIn(testing::kTinyKinds)),
                         [](const auto& each) { return std::get<0>(each.param) + "_" + std::get<1>(each.param); });

void expect_dense_layers_of(const ModelDirectory& converted, const ModelDirectory& source, const Choice& choice) {
  int64_t compared = 0;
  for (const TensorSpec& spec : logical_tensor_specs(source.config())) {
    const bool is_mixture =
        std::find(choice.mixtures.begin(), choice.mixtures.end(), spec.id.layer) != choice.mixtures.end();
    if (is_mixture && spec.name.find(".mlp.") != std::string::npos) continue;
    EXPECT_EQ(converted.tensor_type(spec.name), source.tensor_type(spec.name)) << spec.name;
    EXPECT_TRUE(at::equal(converted.tensor(spec.name), source.tensor(spec.name))) << choice.name << " " << spec.name;
    ++compared;
  }
  EXPECT_GE(compared, 3 + 4 * 6) << "attention, norms, embedding and head at least";
}

/// Bit for bit in the source's type; and what is written beside the weights speaks of the mixtures.
TEST_P(EveryMixedConversionTest, LayersThatAreNotNamedAreTheSource) {
  make(kind(), at::kBFloat16);
  for (const Choice& choice : kChoices) {
    const fs::path output = folder_ / choice.name;
    const v1::ConvertSpec spec = spec_of_listed(method(), 4, 2, choice.items, ids());
    const json report = convert(spec, 1, dense(), output);
    const ModelDirectory converted(output);
    expect_dense_layers_of(converted, ModelDirectory(dense()), choice);
    EXPECT_EQ(converted.config().moe->mixture_layers(), choice.mixtures);
    EXPECT_EQ(converted.config().moe->dense_layers(), choice.dense);
    std::set<std::string> indices, expected;
    if (fs::exists(output / "conversion.safetensors")) {
      const SafetensorsFile file(output / "conversion.safetensors");
      for (const SafetensorsEntry& entry : file.header().entries) indices.insert(entry.name);
    }
    for (const int64_t layer : choice.mixtures) {
      if (!testing::writes_neurons(method())) continue;
      expected.insert(concat("model.layers.", layer, ".mlp.experts.neurons"));
      if (spec.ffn().shared_experts() > 0)
        expected.insert(concat("model.layers.", layer, ".mlp.shared_expert.neurons"));
    }
    EXPECT_EQ(indices, expected);
    ASSERT_EQ(report["layers"].size(), 4U);
    for (const int64_t layer : choice.dense)
      EXPECT_EQ(report["layers"][layer], (json{{"layer", layer}, {"dense", true}}));
    for (const int64_t layer : choice.mixtures)
      EXPECT_EQ(report["layers"][layer]["expert_load"].size(), static_cast<size_t>(spec.ffn().experts()));
  }
}

/// All experts chosen, a zero router, scale N: the dense function, whichever layers are mixtures.
TEST_P(EveryMixedConversionTest, AllExpertsAtScaleNAreTheDenseModel) {
  if (!conversion_methods().at(method()).is_partition) GTEST_SKIP() << method() << " is no partition";
  make(kind());
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  for (const Choice& choice : kChoices) {
    v1::ConvertSpec spec = spec_of_listed(method(), 6, 6, choice.items);
    testing::give_needed_text(spec, ids());
    testing::count_all_alike(spec);
    const fs::path output = folder_ / choice.name;
    convert(spec, 3, dense(), output);
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch), testing::logits_of(dense(), batch), 1e-5));
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch, at::kDouble),
                              testing::logits_of(dense(), batch, at::kDouble), 1e-12))
        << choice.name;
  }
}

/// The same split and the same numbers on more ranks, one of which has no row.
TEST_P(EveryMixedConversionTest, RanksDoNotChangeTheResult) {
  make(kind());
  const v1::ConvertSpec spec = spec_of_listed(method(), 4, 2, {"1", "3"}, ids());
  const json one = convert(spec, 1, dense(), folder_ / "one");
  const ModelDirectory expected(folder_ / "one");
  for (const int ranks : {2, 5}) {
    const fs::path output = folder_ / concat("ranks", ranks);
    testing::run_ranks(ranks, [&](Communicator& world) {
      const json report = convert(spec, 1, dense(), output, world);
      for (const int64_t layer : {1, 3}) {
        EXPECT_NEAR(report["layers"][layer]["output_scale"].get<double>(),
                    one["layers"][layer]["output_scale"].get<double>(), 1e-6);
        EXPECT_EQ(report["layers"][layer]["expert_load"], one["layers"][layer]["expert_load"]);
      }
    });
    const ModelDirectory actual(output);
    if (testing::writes_neurons(method())) {
      EXPECT_EQ(read_file(output / "conversion.safetensors"), read_file(folder_ / "one" / "conversion.safetensors"));
    }
    for (const TensorSpec& tensor : logical_tensor_specs(expected.config())) {
      EXPECT_TRUE(testing::near(actual.tensor(tensor.name), expected.tensor(tensor.name),
                                tensor.name.find("router") != std::string::npos ? 1e-6 : 0))
          << tensor.name;
    }
  }
}

TEST_F(MixedConversionTest, NoListIsAllLayersAndAListOfAllIsTheSame) {
  make("llama");
  convert(spec_of("independent_random", 4, 2, {}, ids()), 1, dense(), folder_ / "none");
  convert(spec_of("independent_random", 4, 2, {"2-", "0-1"}, ids()), 1, dense(), folder_ / "all");
  for (const char* file : {"model.safetensors", "config.json", "conversion.json", "conversion.safetensors"})
    EXPECT_EQ(read_file(folder_ / "none" / file), read_file(folder_ / "all" / file)) << file;
}

TEST_F(MixedConversionTest, WithoutTextTheReportHasKindsAndScales) {
  make("llama");
  const json report = convert(spec_of("sequential", 4, 1, {"1-2"}), 1, dense(), out());
  EXPECT_THAT(report["layers"],
              ElementsAre(json{{"layer", 0}, {"dense", true}}, json{{"layer", 1}, {"output_scale", 2}},
                          json{{"layer", 2}, {"output_scale", 2}}, json{{"layer", 3}, {"dense", true}}));
  const json moe = json::parse(read_file(out() / "config.json"))["moe"];
  EXPECT_EQ(moe["expert_widths"].dump(), "[0,12,12,0]");
  EXPECT_EQ(moe["shared_widths"].dump(), "[0,0,0,0]");
  EXPECT_EQ(moe["output_scale"].dump(), "[1.0,2.0,2.0,1.0]");
}

TEST_F(MixedConversionTest, DenseLayersAreWrittenInTheTypeAskedFor) {
  make("phi");
  v1::ConvertSpec spec = spec_of("sequential", 4, 2, {"1"});
  spec.set_dtype("bfloat16");
  convert(spec, 1, dense(), out());
  const ModelDirectory converted(out()), source(dense());
  for (const TensorSpec& tensor : logical_tensor_specs(converted.config()))
    EXPECT_EQ(converted.tensor_type(tensor.name), at::kBFloat16) << tensor.name;
  const std::string name = "model.layers.2.mlp.fc2.weight";
  EXPECT_TRUE(at::equal(converted.tensor(name), source.tensor(name).to(at::kBFloat16)));
}

/// Methods with widths of their own, shared parts and features of every sort see the mixtures alone.
TEST_F(MixedConversionTest, MethodsThatLookAtTextAndGradients) {
  make("llama");
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  for (const char* method : {"shared_uneven", "by_importance"}) {
    v1::ConvertSpec spec = spec_of(method, 4, 4, {"1", "3"}, ids());
    spec.mutable_calibration()->set_tokens(200);
    spec.mutable_router()->set_init("zero");
    spec.mutable_scale()->set_mode("unbiased");
    const fs::path output = folder_ / method;
    testing::convert_by_fixture(spec, 7, dense(), output, *make_self_communicator());
    const ModelDirectory converted(output);
    expect_dense_layers_of(converted, ModelDirectory(dense()), kChoices[1]);
    EXPECT_EQ(converted.config().moe->shared_widths[0], 0);
    EXPECT_GT(converted.config().moe->shared_widths[1], 0);
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch), testing::logits_of(dense(), batch), 1e-5)) << method;
  }
}

/// The calibration text in the order of the converter, and what a layer of a decoder makes of it.
struct Watched {
  at::Tensor ffn_input, attended, output;
};

Watched watch(const Decoder& decoder, int64_t layer, const TokenBatch& batch) {
  const at::NoGradGuard no_grad;
  Watched seen;
  LocalDispatcher dispatcher;
  decoder.forward(batch, dispatcher, {.observer = [&](int64_t at, LayerPoint point, const at::Tensor& values) {
                    if (at != layer) return;
                    if (point == LayerPoint::kFfnInput) seen.ffn_input = values;
                    if (point == LayerPoint::kAttended) seen.attended = values.clone();
                    if (point == LayerPoint::kOutput) seen.output = values;
                  }});
  return seen;
}

/// Scale, error and router of a mixture behind dense layers are fitted to what reaches it: the scale in the stream of
/// the converted model itself, run here in double; the router's deviation in that of the dense model.
TEST_F(MixedConversionTest, TextReachesAMixtureThroughDenseLayersInBothStreams) {
  make("llama");
  for (const Choice& choice : {kChoices[1], kChoices[3]}) {
    fs::remove_all(out());
    const json report = convert(spec_of("independent_random", 4, 2, choice.items, ids()), 3, dense(), out());
    const PackedBatch text = testing::calibration_rows(four_layers("llama"), ids(), 3, 1024);
    const TokenBatch batch{text.tokens_T, text.cu_seqlens};
    const ModelDirectory source(dense()), converted(out());
    const Decoder before = load_decoder(source, at::kDouble, {}),
                  after = load_decoder(converted, at::kDouble, all_experts(converted.config()));
    for (const int64_t layer : choice.mixtures) {
      SCOPED_TRACE(concat(choice.name, " layer ", layer));
      const json& told = report["layers"][layer];
      const auto weight = [&](const char* part) {
        return source.tensor(concat("model.layers.", layer, ".mlp.", part, ".weight")).to(at::kDouble);
      };
      const Watched real = watch(after, layer, batch);
      const at::Tensor x = real.ffn_input,
                       y = at::matmul(
                           at::silu(at::matmul(x, weight("gate_proj").t())) * at::matmul(x, weight("up_proj").t()),
                           weight("down_proj").t()),
                       s = (real.output - real.attended) / converted.config().moe->output_scale[layer];
      const double scale = ((y * s).sum() / s.square().sum()).item<double>();
      EXPECT_NEAR(told["output_scale"].get<double>() / scale, 1, 1e-4);
      EXPECT_NEAR(told["relative_ffn_error"].get<double>(),
                  ((y - scale * s).square().sum() / y.square().sum()).item<double>(), 1e-4);
      const at::Tensor logits =
          at::matmul(watch(before, layer, batch).ffn_input,
                     converted.tensor(concat("model.layers.", layer, ".mlp.router.weight")).to(at::kDouble).t());
      EXPECT_NEAR(told["router_logit_deviation"].get<double>(), logits.std(/*unbiased=*/false).item<double>(), 1e-4);
    }
    EXPECT_FALSE(testing::near(watch(after, 3, batch).ffn_input, watch(before, 3, batch).ffn_input, 1e-3))
        << "the streams are not told apart";
  }
}

}  // namespace
}  // namespace moe
