// Partitions that methods make with options of their own, and what a partition gives at other scales and routers than
// those of the dense function (converter_test.cc).

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using testing::logits_of;
using testing::near;

struct WithOption {
  const char* method;
  const char* option;
  const char* value;
  int experts, shared;
};
constexpr WithOption kWithOptions[] = {{"sharing_inter", "routed", "disjoint", 5, 1},
                                       {"sharing_inter", "routed", "disjoint", 2, 2},
                                       {"weave", "shared", "adaptive", 5, 0},
                                       {"weave", "shared", "adaptive", 3, 0}};

class PartitionByOptionTest : public testing::ConversionTest,
                              public ::testing::WithParamInterface<std::tuple<WithOption, const char*>> {
 protected:
  PartitionByOptionTest() : ConversionTest(std::get<1>(GetParam())) {}
};
INSTANTIATE_TEST_SUITE_P(Methods, PartitionByOptionTest,
                         ::testing::Combine(::testing::ValuesIn(kWithOptions),
                                            ::testing::ValuesIn(testing::kTinyKinds)),
                         [](const auto& each) {
                           const WithOption& with = std::get<0>(each.param);
                           return concat(with.method, "_", with.value, "_", with.experts, "_", std::get<1>(each.param));
                         });

/// Every neuron stands in one part, and all parts at weight 1 are the dense model, of every family.
TEST_P(PartitionByOptionTest, AllPartsAreTheDenseModel) {
  const auto& [with, kind] = GetParam();
  const ConversionMethod& method = conversion_methods().at(with.method);
  if (method.refusal && !method.refusal(testing::tiny_config(kind)).empty())
    GTEST_SKIP() << method.refusal(testing::tiny_config(kind));
  v1::ConvertSpec spec = testing::convert_spec(with.method, with.experts, with.experts, ids());
  if (with.shared > 0) spec.mutable_ffn()->set_shared_experts(with.shared);
  testing::set_option(spec, with.option, with.value);
  EXPECT_TRUE(makes_partition(method, spec.ffn()));
  testing::count_all_alike(spec);
  testing::convert(spec, 3, dense(), out());
  const SafetensorsFile indices(out() / "conversion.safetensors");
  for (const int64_t layer : {0, 1}) {
    const std::string mlp = concat("model.layers.", layer, ".mlp.");
    const at::Tensor neurons = at::cat({indices.tensor(mlp + "experts.neurons").to(at::kLong).flatten(),
                                        indices.tensor(mlp + "shared_expert.neurons").to(at::kLong)});
    EXPECT_TRUE(at::equal(std::get<0>(neurons.sort()), at::arange(48))) << "layer " << layer;
  }
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  EXPECT_TRUE(near(logits_of(out(), batch), logits_of(dense(), batch), 1e-5));
  EXPECT_TRUE(near(logits_of(out(), batch, at::kDouble), logits_of(dense(), batch, at::kDouble), 1e-12));
}

/// As many experts as are supported, of 4 neurons each.
class PartitionIn128Test : public testing::ConversionTest, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, PartitionIn128Test, ::testing::ValuesIn(conversion_methods().names()),
                         [](const auto& each) { return each.param; });

TEST_P(PartitionIn128Test, AllPartsAreTheDenseModel) {
  constexpr int kUnits = 128;
  nlohmann::json json = testing::tiny_json();
  json["intermediate_size"] = 4 * kUnits;
  const ModelConfig wide = parse_model_config(json.dump(), "wide");
  if (const std::string reason = testing::no_partition_of(GetParam(), wide); !reason.empty()) GTEST_SKIP() << reason;
  const std::optional<v1::FfnExpertsSpec> sizes = testing::sizes_of(GetParam(), wide.intermediate_size, kUnits, kUnits);
  ASSERT_TRUE(sizes.has_value());
  const std::filesystem::path source = folder_ / "wide";
  testing::write_dense_model(source, wide, 5);
  v1::ConvertSpec spec = testing::convert_spec(GetParam(), kUnits, kUnits);
  *spec.mutable_ffn() = *sizes;
  testing::write_calibration(folder_ / "many.jsonl", 400, wide.vocab_size, 1);  // a document an expert, and more
  testing::give_needed_text(spec, folder_ / "many.jsonl");
  spec.mutable_calibration()->set_tokens(8000);
  testing::count_all_alike(spec);
  testing::convert(spec, 3, source, out());
  EXPECT_EQ(ModelDirectory(out()).config().moe->num_experts, sizes->experts());
  EXPECT_GE(sizes->experts(), kUnits - 1);
  const TokenBatch batch = testing::random_batch({20, 7, 33}, wide.vocab_size, 4);
  EXPECT_TRUE(near(logits_of(out(), batch), logits_of(source, batch), 1e-5));
  EXPECT_TRUE(near(logits_of(out(), batch, at::kDouble), logits_of(source, batch, at::kDouble), 1e-12));
}

/// What is no partition in as many experts.
std::vector<std::string> methods_of_other_mixtures() {
  std::vector<std::string> methods;
  for (const std::string& name : conversion_methods().names()) {
    const std::optional<v1::FfnExpertsSpec> sizes = testing::sizes_of(name, 512, 128, 2);
    if (!conversion_methods().at(name).is_partition && sizes && sizes->experts() > 1) methods.push_back(name);
  }
  return methods;
}

class MixtureOf128Test : public testing::ConversionTest, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, MixtureOf128Test, ::testing::ValuesIn(methods_of_other_mixtures()),
                         [](const auto& each) { return each.param; });

TEST_P(MixtureOf128Test, IsReadAndRouted) {
  nlohmann::json json = testing::tiny_json();
  json["intermediate_size"] = 512;
  const ModelConfig wide = parse_model_config(json.dump(), "wide");
  const std::filesystem::path source = folder_ / "wide";
  testing::write_dense_model(source, wide, 5);
  v1::ConvertSpec spec = testing::convert_spec(GetParam(), 128, 2);
  *spec.mutable_ffn() = testing::sizes_of(GetParam(), 512, 128, 2).value();
  testing::write_calibration(folder_ / "many.jsonl", 400, wide.vocab_size, 1);
  testing::give_needed_text(spec, folder_ / "many.jsonl");
  spec.mutable_calibration()->set_tokens(8000);
  testing::convert(spec, 3, source, out());
  EXPECT_GE(ModelDirectory(out()).config().moe->num_experts, 127);
  const TokenBatch batch = testing::random_batch({20, 7, 33}, wide.vocab_size, 4);
  const at::Tensor logits = logits_of(out(), batch), exact = logits_of(out(), batch, at::kDouble);
  EXPECT_TRUE(exact.isfinite().all().item<bool>());
  EXPECT_TRUE(near(logits, exact, 1e-4));
}

class ScaleOfPartitionTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ScaleOfPartitionTest() : ConversionTest(GetParam()) {}

  static constexpr int kExperts = 6;
  /// All experts of a random split chosen, their weights renormalised.
  std::filesystem::path converted(const char* router, double scale) const {
    v1::ConvertSpec spec = testing::convert_spec("independent_random", kExperts, kExperts);
    spec.mutable_router()->set_init(router);
    spec.mutable_scale()->set_mode("fixed");
    spec.mutable_scale()->set_value(scale);
    const std::filesystem::path path = folder_ / concat(router, scale);
    testing::convert(spec, 3, dense(), path);
    return path;
  }
  /// What the first layer's FFN adds to the stream, without its bias. [T, D] double
  static at::Tensor first_ffn_output(const std::filesystem::path& path, const TokenBatch& batch) {
    const at::NoGradGuard no_grad;
    const ModelDirectory directory(path);
    const Decoder decoder = load_decoder(directory, at::kDouble, all_experts(directory.config()));
    std::map<LayerPoint, at::Tensor> seen;
    ForwardOptions options;
    options.observer = [&seen](int64_t layer, LayerPoint point, const at::Tensor& values) {
      if (layer == 0) seen[point] = values;
    };
    LocalDispatcher dispatcher;
    decoder.forward(batch, dispatcher, options);
    at::Tensor added = seen.at(LayerPoint::kOutput) - seen.at(LayerPoint::kAttended);
    for (const Parameter& parameter : decoder.parameters()) {
      const TensorId& id = parameter.id;
      if (id.layer == 0 && ((id.part == TensorPart::kDown && id.is_bias) || id.part == TensorPart::kOutputBias))
        added = added - parameter.value;
    }
    return added;
  }

  TokenBatch batch_ = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
};
INSTANTIATE_TEST_SUITE_P(Kinds, ScaleOfPartitionTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& each) { return std::string(each.param); });

/// llama-moe-v1 T2: with zero logits and S = N / K = 1 the FFN's output is the dense one's over N.
TEST_P(ScaleOfPartitionTest, UniformWeightsAtScaleOneGiveTheDenseOutputOverN) {
  const at::Tensor expected = first_ffn_output(dense(), batch_);
  EXPECT_GT(testing::max_abs(expected), 1e-2);
  EXPECT_TRUE(near(first_ffn_output(converted("zero", 1), batch_), expected / kExperts, 1e-12));
  EXPECT_TRUE(near(first_ffn_output(converted("zero", kExperts), batch_), expected, 1e-12)) << "at scale N all of it";
}

/// llama-moe-v2 A6: weights of a random router are not uniform, whatever their scale. A router that is not asked would
/// give the dense output.
TEST_P(ScaleOfPartitionTest, ARandomRouterAtScaleNIsNotTheDenseModel) {
  const std::filesystem::path random = converted("kaiming", kExperts);
  const at::Tensor expected = first_ffn_output(dense(), batch_), output = first_ffn_output(random, batch_);
  EXPECT_GT(testing::max_difference(output, expected), 1e-2 * testing::max_abs(expected));
  EXPECT_FALSE(near(logits_of(random, batch_), logits_of(dense(), batch_), 1e-2));
}

}  // namespace
}  // namespace moe
