// What a conversion writes, on tiny models made here.

#include "convert/converter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "data/documents.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"
#include "testing/work_log.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::ConversionTest;
using testing::convert;
using testing::convert_spec;
using ::testing::ThrowsMessage;

/// A part of a converted layer, and the neurons that it was cut out of.
struct Part {
  int64_t expert = 0;
  at::Tensor neurons;
};

std::vector<Part> parts_of(const ModelDirectory& model, int64_t layer) {
  const SafetensorsFile indices(model.path() / "conversion.safetensors");
  const at::Tensor experts = indices.tensor(concat("model.layers.", layer, ".mlp.experts.neurons")).to(at::kLong);
  std::vector<Part> parts;
  for (int64_t e = 0; e < experts.size(0); ++e)
    parts.push_back({e, experts[e].narrow(0, 0, model.config().moe->expert_width(layer, e))});
  if (model.config().moe->shared_widths[layer] > 0) {
    parts.push_back(
        {kSharedExpert, indices.tensor(concat("model.layers.", layer, ".mlp.shared_expert.neurons")).to(at::kLong)});
  }
  return parts;
}

/// Same type, shape and bits.
bool identical(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && at::equal(a, b);
}

/// What a conversion leaves.
std::vector<std::string> files_of(const std::string& method) {
  std::vector<std::string> files{"model.safetensors", "config.json", "conversion.json"};
  if (testing::writes_neurons(method)) files.emplace_back("conversion.safetensors");
  return files;
}

/// A method and a kind of tiny model.
using Conversion = std::tuple<std::string, const char*>;

class EveryConversionTest : public ConversionTest, public ::testing::WithParamInterface<Conversion> {
 protected:
  EveryConversionTest() : ConversionTest(std::get<1>(GetParam())) {}
  void SetUp() override {
    const ConversionMethod& row = conversion_methods().at(method());
    if (row.refusal && !row.refusal(config()).empty()) GTEST_SKIP() << row.refusal(config());
  }

  static const std::string& method() { return std::get<0>(GetParam()); }
  static bool is_partition() { return testing::no_partition_of(method(), config()).empty(); }
  static ModelConfig config() { return testing::tiny_config(std::get<1>(GetParam())); }
};

/// Every part holds the neurons that its indices name, bit for bit, in the source's own type, and everything else is a
/// copy. Of a partition the parts are all neurons, each once: put back by their indices, they are the source.
TEST_P(EveryConversionTest, RoundTripIsBitIdentical) {
  if (!testing::writes_neurons(method())) GTEST_SKIP() << method() << " takes more than neurons of the model";
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const std::filesystem::path source_path = folder_ / concat("source", type), output = folder_ / concat("out", type);
    testing::write_dense_model(source_path, config(), 5, type);
    v1::ConvertSpec spec = testing::method_spec(method(), 6, 2);
    testing::give_needed_text(spec, ids());
    convert(spec, 1, source_path, output);
    const ModelDirectory source(source_path), converted(output);
    for (const TensorSpec& tensor : logical_tensor_specs(source.config())) {
      const at::Tensor expected = source.tensor(tensor.name);
      const TensorPart part = tensor.id.part;
      if (part != TensorPart::kGate && part != TensorPart::kUp && part != TensorPart::kDown) {
        EXPECT_TRUE(identical(converted.tensor(tensor.name), expected)) << tensor.name;
        continue;
      }
      if (part == TensorPart::kDown && tensor.id.is_bias) {
        const std::string name = concat("model.layers.", tensor.id.layer, ".mlp.output_bias");
        EXPECT_TRUE(identical(converted.tensor(name), expected)) << name;
        continue;
      }
      for (const Part& of_layer : parts_of(converted, tensor.id.layer)) {
        const std::string name =
            tensor_name(source.config(), {part, tensor.id.layer, of_layer.expert, tensor.id.is_bias});
        EXPECT_TRUE(identical(converted.tensor(name),
                              expected.index_select(part == TensorPart::kDown ? 1 : 0, of_layer.neurons)))
            << name;
      }
    }
    for (int64_t layer = 0; is_partition() && layer < 2; ++layer) {
      std::vector<at::Tensor> all;
      for (const Part& part : parts_of(converted, layer)) all.push_back(part.neurons);
      EXPECT_TRUE(at::equal(std::get<0>(at::cat(all).sort()), at::arange(48))) << "layer " << layer;
    }
  }
}

/// All experts chosen, a zero router, scale N, or weights of 1: the dense function.
TEST_P(EveryConversionTest, AllExpertsAtScaleNAreTheDenseModel) {
  if (!is_partition()) GTEST_SKIP() << method() << " is no partition";
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  for (const int units : {1, 2, 4, 6, 16, 48}) {
    if (!testing::sizes_of(method(), 48, units, units)) continue;
    v1::ConvertSpec spec = testing::method_spec(method(), units, units);
    testing::give_needed_text(spec, ids());
    spec.mutable_calibration()->set_tokens(2000);  // 48 documents and more, for as many clusters
    testing::count_all_alike(spec);
    const std::filesystem::path output = folder_ / concat("all", units);
    convert(spec, 3, dense(), output);
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch), testing::logits_of(dense(), batch), 1e-5)) << units;
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch, at::kDouble),
                              testing::logits_of(dense(), batch, at::kDouble), 1e-12))
        << units;
    EXPECT_TRUE(testing::near(testing::logits_of(output, batch, at::kBFloat16),
                              testing::logits_of(dense(), batch, at::kBFloat16), 2e-2))
        << units;
  }
}

TEST_P(EveryConversionTest, SameSeedSameBytesOtherSeedOtherRouter) {
  const v1::ConvertSpec spec = testing::method_spec(method(), 4, 2, ids());
  convert(spec, 1, dense(), folder_ / "a");
  convert(spec, 1, dense(), folder_ / "b");
  convert(spec, 2, dense(), folder_ / "c");
  for (const std::string& file : files_of(method()))
    EXPECT_EQ(read_file(folder_ / "a" / file), read_file(folder_ / "b" / file)) << file;
  EXPECT_NE(read_file(folder_ / "a" / "model.safetensors"), read_file(folder_ / "c" / "model.safetensors"));
}

/// The number of ranks changes no bit of any file; one of five ranks has no row at all.
TEST_P(EveryConversionTest, RanksDoNotChangeTheResult) {
  v1::ConvertSpec spec = testing::method_spec(method(), 4, 2, ids());
  spec.mutable_calibration()->set_tokens(250);
  const json one = convert(spec, 1, dense(), folder_ / "one");
  for (const int ranks : {2, 4, 5}) {
    const std::filesystem::path output = folder_ / concat("ranks", ranks);
    testing::run_ranks(ranks, [&](Communicator& world) { EXPECT_EQ(convert(spec, 1, dense(), output, world), one); });
    for (const std::string& file : files_of(method()))
      EXPECT_EQ(read_file(output / file), read_file(folder_ / "one" / file)) << file;
  }
}

/// All experts chosen with equal weights: least squares must find N (1 where the weights are 1), with biases on both
/// sides of the fit and none in it.
TEST_P(EveryConversionTest, LeastSquaresFindsNWhereAllExpertsAreChosen) {
  if (!is_partition()) GTEST_SKIP() << method() << " is no partition";
  v1::ConvertSpec spec = testing::method_spec(method(), 4, 4, ids());
  const double expected = testing::count_all_alike(spec);
  spec.mutable_scale()->set_mode("least_squares");
  const json report = convert(spec, 1, dense(), out());
  for (const json& layer : report["layers"]) {
    EXPECT_NEAR(layer["output_scale"].get<double>(), expected, 1e-5);
    EXPECT_LT(layer["relative_ffn_error"].get<double>(), 1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryConversionTest,
                         ::testing::Combine(::testing::ValuesIn(conversion_methods().names()),
                                            ::testing::ValuesIn(testing::kTinyKinds)),
                         [](const auto& each) { return std::get<0>(each.param) + "_" + std::get<1>(each.param); });

TEST_F(ConversionTest, ReportAndConfigSayHowItWasMade) {
  testing::WorkLog log;
  const ModelDirectory source(dense());
  const v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
  const auto world = make_self_communicator();
  const json report =
      convert_model({.spec = spec, .seed = 9, .source = source, .text = {}, .output = out(), .monitor = log}, *world);
  EXPECT_EQ(log.units(), "converting layer 1/4 2/4 3/4 4/4") << "converted, then measured";
  EXPECT_EQ(log.read(), (std::map<std::string, std::string>{{ids(), xxh3_hex_of_file(ids())}}));
  EXPECT_EQ(json::parse(read_file(out() / "conversion.json")), report);
  EXPECT_EQ(report["method"], "independent_random");
  EXPECT_EQ(report["seed"], 9);
  EXPECT_EQ(report["source"]["digest"], source.digest());
  const int64_t tokens = report["calibration"]["tokens"];
  EXPECT_GE(tokens, 1024);
  EXPECT_EQ(report["calibration"]["files"],
            (json{{{"path", ids()}, {"weight", 1.0}, {"xxh3_128", xxh3_hex_of_file(ids())}}}));

  const ModelConfig config = ModelDirectory(out()).config();
  ASSERT_TRUE(config.moe);
  EXPECT_EQ(config.moe->num_experts, 4);
  EXPECT_EQ(config.moe->top_k, 2);
  EXPECT_EQ(config.moe->expert_widths, (std::vector<int64_t>{12, 12}));
  EXPECT_EQ(config.moe->conversion["method"], "independent_random");
  EXPECT_EQ(config.moe->conversion["source_digest"], source.digest());
  for (size_t layer = 0; layer < 2; ++layer) {
    const json& of_layer = report["layers"][layer];
    EXPECT_EQ(config.moe->output_scale[layer], of_layer["output_scale"].get<double>());
    // The report's standard deviation is of the router in float32, as it is written.
    EXPECT_NEAR(of_layer["router_logit_deviation"].get<double>(), 1, 1e-3);
    EXPECT_GT(of_layer["relative_ffn_error"].get<double>(), 0);
    EXPECT_LT(of_layer["relative_ffn_error"].get<double>(), 1) << "no worse than no FFN at all";
    int64_t load = 0;
    for (const json& count : of_layer["expert_load"]) load += count.get<int64_t>();
    EXPECT_EQ(load, tokens * 2);
  }
}

/// Writes the tiny dense model with a row of one tensor near the end of float's range: finite, but not what it gives.
void write_overflowing_model(const std::filesystem::path& path, const std::string& tensor) {
  testing::write_dense_model(path, testing::tiny_config(), 11, [&](const Parameter& parameter) {
    if (parameter.name == tensor) parameter.value.select(0, 3).fill_(3e38);
  });
}

/// Whatever is fitted and whatever scale is asked for: the layer and the numbers, on every rank, and no output.
TEST_F(ConversionTest, CalibrationThatIsNotFiniteIsRefusedWithLayerAndNumbers) {
  const struct {
    const char* tensor;
    const char* says;
  } cases[] = {
      {"model.layers.1.mlp.up_proj.weight", "layer 1: [0-9]+ of [0-9]+ values of the dense FFN's outputs"},
      {"model.layers.0.self_attn.v_proj.weight", "layer 0: [0-9]+ of [0-9]+ values of the dense model's FFN inputs"},
      {"model.layers.1.mlp.down_proj.weight", "layer 1: [0-9]+ of [0-9]+ values of the dense FFN's outputs"}};
  for (const auto& [tensor, says] : cases) {
    SCOPED_TRACE(tensor);
    const std::filesystem::path source = folder_ / tensor;
    write_overflowing_model(source, tensor);
    for (const char* mode : {"least_squares", "n_over_k"}) {
      v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
      spec.mutable_scale()->set_mode(mode);
      EXPECT_THAT(refusal(spec, source),
                  ::testing::AllOf(::testing::ContainsRegex(says), ::testing::HasSubstr("NaN or infinite")));
    }
    const std::string pattern = says;
    testing::run_ranks(2, [&](Communicator& world) {
      v1::ConvertSpec spec = convert_spec("sequential", 4, 1, ids());
      spec.mutable_router()->set_init("kaiming");
      EXPECT_THAT([&] { convert(spec, 1, source, out(), world); },
                  ThrowsMessage<InvalidArgument>(::testing::ContainsRegex(pattern)))
          << "rank " << world.rank();
    });
  }
}

/// The files hold 60 documents of 20 to 60 ids: all but the last of each is an input, once.
TEST_F(ConversionTest, TooLittleCalibrationTextIsRefusedWithItsNumbers) {
  int64_t inputs = 0;
  for (const IdLine& line : read_id_documents(ids().string(), testing::tiny_config().vocab_size))
    inputs += static_cast<int64_t>(line.ids.size()) - 1;
  v1::ConvertSpec spec = convert_spec("independent_random", 4, 2, ids());
  spec.mutable_calibration()->set_tokens(inputs);
  EXPECT_EQ(convert(spec, 1, dense(), folder_ / "all")["calibration"]["tokens"], inputs) << "enough is enough";
  spec.mutable_calibration()->set_tokens(inputs + 1);
  testing::run_ranks(2, [&](Communicator& world) {
    EXPECT_THAT([&] { convert(spec, 1, dense(), out(), world); },
                ThrowsMessage<InvalidArgument>(
                    ::testing::AllOf(::testing::HasSubstr(concat("calibration.tokens is ", inputs + 1)),
                                     ::testing::HasSubstr(concat("hold ", inputs, " tokens")),
                                     ::testing::HasSubstr(concat("set calibration.tokens to ", inputs, " or less")))));
  });
  EXPECT_FALSE(std::filesystem::exists(out()));
  EXPECT_FALSE(std::filesystem::exists(out().string() + ".partial"));
}

TEST_F(ConversionTest, CalibrationTextThatNobodyNeedsStillGivesTheReport) {
  v1::ConvertSpec spec = convert_spec("sequential", 4, 1, ids());
  spec.mutable_router()->set_init("kaiming");
  spec.mutable_scale()->set_mode("k");
  const json report = convert(spec, 1, dense(), out());
  EXPECT_TRUE(report["layers"][1].contains("expert_load"));
  EXPECT_EQ(report["layers"][1]["output_scale"], 1);
}

TEST_F(ConversionTest, WithoutCalibrationTheReportHasTheScalesOnly) {
  const json report = convert(convert_spec("sequential", 4, 1), 1, dense(), out());
  EXPECT_FALSE(report.contains("calibration"));
  EXPECT_EQ(report["layers"][0], (json{{"layer", 0}, {"output_scale", 2}}));
}

TEST_F(ConversionTest, TopOneRoutesWithWeightOne) {
  convert(convert_spec("independent_random", 4, 1, ids()), 1, dense(), out());
  EXPECT_EQ(ModelDirectory(out()).config().moe->topk_norm, "straight_through");
}

/// The scale is fitted to the weights that the model then gives.
TEST_F(ConversionTest, EveryScoreAndNormIsFittedAsItRuns) {
  std::set<double> scales;
  for (const char* score : {"softmax", "sigmoid"}) {
    for (const char* norm : {"renorm", "straight_through", "raw", "unit", "one_plus"}) {
      SCOPED_TRACE(std::string(norm) + " of " + score);
      v1::ConvertSpec spec = convert_spec("sequential", 4, 2, ids());
      spec.mutable_router()->set_score(score);
      spec.mutable_router()->set_topk_norm(norm);
      const std::filesystem::path path = folder_ / (std::string(score) + "-" + norm);
      const json report = convert(spec, 1, dense(), path);
      const ModelDirectory model(path);
      EXPECT_EQ(model.config().moe->score, score);
      EXPECT_EQ(model.config().moe->topk_norm, norm);
      const double scale = report["layers"][0]["output_scale"];
      EXPECT_EQ(model.config().moe->output_scale[0], scale);
      EXPECT_LT(report["layers"][0]["relative_ffn_error"].get<double>(), 1);
      scales.insert(scale);
      EXPECT_TRUE(testing::logits_of(path, testing::random_batch({20}, 61, 1)).isfinite().all().item<bool>());
      if (std::string(norm) == "one_plus") {
        EXPECT_EQ(model.tensor("model.layers.1.mlp.router.gain").count_nonzero().item<int64_t>(), 0);
        EXPECT_EQ(model.tensor("model.layers.1.mlp.router.gain").size(0), 4);
      }
    }
  }
  // Weights of 1 are one function in three spellings, whatever the score.
  EXPECT_EQ(scales.size(), 5U);
}

TEST_F(ConversionTest, RoutersOfAHalfPrecisionModelAreCalibratedAsWritten) {
  testing::write_dense_model(folder_ / "bf16", testing::tiny_config(), 11, at::kBFloat16);
  const json report = convert(convert_spec("sequential", 4, 2, ids()), 1, folder_ / "bf16", out());
  EXPECT_EQ(ModelDirectory(out()).tensor_type("model.layers.0.mlp.router.weight"), at::kBFloat16);
  // Rounding to 8 bits moves the deviation a little; that it is near 1 shows that the report is of the rounded router.
  for (const json& layer : report["layers"]) {
    EXPECT_NEAR(layer["router_logit_deviation"].get<double>(), 1, 4e-3);
    EXPECT_NE(layer["router_logit_deviation"].get<double>(), 1);
  }
}

TEST_F(ConversionTest, WritesTheTypeAskedFor) {
  v1::ConvertSpec spec = convert_spec("sequential", 4, 2);
  spec.set_dtype("bfloat16");
  convert(spec, 1, dense(), out());
  const ModelDirectory converted(out()), source(dense());
  for (const TensorSpec& tensor : logical_tensor_specs(converted.config()))
    EXPECT_EQ(converted.tensor_type(tensor.name), at::kBFloat16);
  EXPECT_TRUE(at::equal(converted.tensor("lm_head.weight"), source.tensor("lm_head.weight").to(at::kBFloat16)));
}

TEST_F(ConversionTest, TheManifestHasEveryFilesDigest) {
  convert(convert_spec("sequential", 4, 2), 1, dense(), out());
  const json files = json::parse(read_file(out() / "MANIFEST.json"))["files"];
  std::set<std::string> expected{"config.json", "model.safetensors", "conversion.json", "conversion.safetensors"},
      listed;
  for (const auto& [name, entry] : files.items()) {
    listed.insert(name);
    EXPECT_EQ(entry["xxh3_128"], xxh3_hex(read_file(out() / name))) << name;
  }
  EXPECT_EQ(listed, expected);
}

}  // namespace
}  // namespace moe
