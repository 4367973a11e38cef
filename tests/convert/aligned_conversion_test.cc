// scale.alignment: what the written model's layers give on the calibration text, against the dense model's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::convert;
using testing::near;

constexpr uint64_t kSeed = 5;

v1::ConvertSpec aligned_spec(const std::string& method, const std::string& alignment,
                             const std::filesystem::path& text) {
  v1::ConvertSpec spec = testing::convert_spec(method, method == "residual" ? 5 : 6, 2, text);
  if (method == "residual") spec.mutable_ffn()->set_shared_experts(1);
  spec.mutable_scale()->set_mode("fixed");
  spec.mutable_scale()->set_value(3);
  spec.mutable_scale()->set_alignment(alignment);
  return spec;
}

struct Statistics {
  at::Tensor mean_D, variance_D;
};

/// Of each layer's FFN output, while the whole model runs.
std::vector<Statistics> statistics_of(const std::filesystem::path& model, const PackedBatch& batch) {
  const at::NoGradGuard no_grad;
  const ModelDirectory directory(model);
  const Decoder decoder = load_decoder(directory, at::kFloat, all_experts(directory.config()));
  std::map<int64_t, at::Tensor> before;
  std::vector<Statistics> found;
  LocalDispatcher dispatcher;
  decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher,
                  {.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
                    if (point == LayerPoint::kAttended) before[layer] = values.to(at::kDouble);
                    if (point != LayerPoint::kOutput) return;
                    const at::Tensor y = values.to(at::kDouble) - before.at(layer);
                    found.push_back({y.mean(0), y.var(0, /*unbiased=*/false)});
                  }});
  return found;
}

/// The largest difference of means, in deviations of the dense channel, and of variances, relative to it.
std::pair<double, double> largest_differences(const Statistics& found, const Statistics& dense) {
  return {((found.mean_D - dense.mean_D) / dense.variance_D.sqrt()).abs().max().item<double>(),
          (found.variance_D / dense.variance_D - 1).abs().max().item<double>()};
}

using Case = std::tuple<const char*, const char*>;  ///< kind of model, method

class AlignedConversionTest : public testing::ConversionTest, public ::testing::WithParamInterface<Case> {
 protected:
  AlignedConversionTest() : ConversionTest(std::get<0>(GetParam())) {}
  static std::string method() { return std::get<1>(GetParam()); }
  static ModelConfig config() { return testing::tiny_config(std::get<0>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(Kinds, AlignedConversionTest,
                         ::testing::Combine(::testing::ValuesIn(testing::kTinyKinds),
                                            ::testing::Values("independent_random", "residual")),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param);
                         });

/// G1 of LLaMA-MoE v2's specification: scale 3, shared expert and biases included.
TEST_P(AlignedConversionTest, ChannelsHaveTheDenseStatisticsOnTheCalibrationText) {
  const PackedBatch batch = testing::calibration_rows(config(), ids(), kSeed, 1024);
  const std::vector<Statistics> dense_layers = statistics_of(dense(), batch);
  for (const char* alignment : {"none", "variance", "mean_variance"}) {
    SCOPED_TRACE(alignment);
    const std::filesystem::path output = folder_ / alignment;
    const json report = convert(aligned_spec(method(), alignment, ids()), kSeed, dense(), output);
    const std::vector<Statistics> layers = statistics_of(output, batch);
    ASSERT_EQ(layers.size(), 2U);
    for (size_t layer = 0; layer < 2; ++layer) {
      const auto [mean, variance] = largest_differences(layers[layer], dense_layers[layer]);
      const bool aligns_variance = std::string(alignment) != "none",
                 aligns_mean = std::string(alignment) == "mean_variance";
      if (aligns_variance) {
        EXPECT_LT(variance, 1e-3);
      } else {
        EXPECT_GT(variance, 0.1) << "there is something to align";
      }
      if (aligns_mean) {
        EXPECT_LT(mean, 1e-3);
      } else {
        EXPECT_GT(mean, 0.02);
      }
      const json& found = report["layers"][layer];
      EXPECT_EQ(found.contains("alignment"), aligns_variance);
      if (!aligns_variance) continue;
      EXPECT_GT(found["alignment"]["factor"]["greatest"], found["alignment"]["factor"]["least"]);
      EXPECT_GT(found["alignment"]["factor"]["least"], 0);
      EXPECT_EQ(found["alignment"].contains("bias"), aligns_mean);
      EXPECT_EQ(found["output_scale"], 3) << "it stays where it is";
      EXPECT_EQ(report["alignment"], alignment);
      EXPECT_EQ(report["receipt"]["all"]["weights"], "router") << "the parts no longer sum to the dense FFN";
    }
    const ModelConfig written = ModelDirectory(output).config();
    EXPECT_EQ(written.moe->has_output_bias, std::string(alignment) == "mean_variance" && !config().mlp_bias);
  }
}

/// One factor a channel in all experts and the shared one, and nothing else is touched.
TEST_P(AlignedConversionTest, FactorsStandInTheDownProjectionsAlone) {
  convert(aligned_spec(method(), "none", ids()), kSeed, dense(), folder_ / "plain");
  convert(aligned_spec(method(), "variance", ids()), kSeed, dense(), folder_ / "aligned");
  const ModelDirectory plain(folder_ / "plain"), aligned(folder_ / "aligned");
  std::map<int64_t, at::Tensor> factors;
  for (const TensorSpec& spec : logical_tensor_specs(plain.config())) {
    const at::Tensor before = plain.tensor(spec.name), after = aligned.tensor(spec.name);
    if (spec.id.part != TensorPart::kDown) {
      EXPECT_TRUE(at::equal(before, after)) << spec.name;
      continue;
    }
    const at::Tensor factor = (after.to(at::kDouble) / before.to(at::kDouble)).mean(1);
    EXPECT_TRUE(near(after.to(at::kDouble), before.to(at::kDouble) * factor.unsqueeze(1), 1e-6)) << spec.name;
    const auto [first, is_new] = factors.try_emplace(spec.id.layer, factor);
    EXPECT_TRUE(near(factor, first->second, 1e-5)) << spec.name;
  }
  EXPECT_EQ(factors.size(), 2U);
  EXPECT_EQ(read_file(folder_ / "plain/conversion.safetensors"), read_file(folder_ / "aligned/conversion.safetensors"));
}

TEST_P(AlignedConversionTest, RanksDoNotChangeTheResult) {
  v1::ConvertSpec spec = aligned_spec(method(), "mean_variance", ids());
  spec.mutable_calibration()->set_tokens(250);
  const json one = convert(spec, kSeed, dense(), folder_ / "one");
  for (const int ranks : {2, 4, 5}) {
    const std::filesystem::path output = folder_ / concat("ranks", ranks);
    testing::run_ranks(ranks,
                       [&](Communicator& world) { EXPECT_EQ(convert(spec, kSeed, dense(), output, world), one); });
    for (const char* file : {"model.safetensors", "config.json", "conversion.json"})
      EXPECT_EQ(read_file(output / file), read_file(folder_ / "one" / file)) << file;
  }
}

class AlignmentTest : public testing::ConversionTest {};

/// A channel that no neuron reaches gives nothing that could vary.
TEST_F(AlignmentTest, AChannelOfZerosStaysFinite) {
  testing::write_dense_model(folder_ / "dead", testing::tiny_config(), 3, [](const Parameter& parameter) {
    if (parameter.id.part == TensorPart::kDown) parameter.value[7].zero_();
  });
  const json report =
      convert(aligned_spec("independent_random", "mean_variance", ids()), kSeed, folder_ / "dead", out());
  for (const json& layer : report["layers"]) EXPECT_EQ(layer["alignment"]["kept_channels"], 1);
  const at::Tensor bias = ModelDirectory(out()).tensor("model.layers.1.mlp.output_bias");
  EXPECT_EQ(bias[7].item<float>(), 0);
  EXPECT_GT(bias.abs().max().item<float>(), 0);
}

TEST_F(AlignmentTest, LayersThatStayDenseAreNotAligned) {
  v1::ConvertSpec spec = aligned_spec("independent_random", "mean_variance", ids());
  spec.mutable_ffn()->add_layers("1");
  const json report = convert(spec, kSeed, dense(), out());
  EXPECT_FALSE(report["layers"][0].contains("alignment"));
  EXPECT_TRUE(report["layers"][1].contains("alignment"));
  const ModelDirectory before(dense()), after(out());
  EXPECT_TRUE(at::equal(after.tensor("model.layers.0.mlp.down_proj.weight"),
                        before.tensor("model.layers.0.mlp.down_proj.weight")));
  const PackedBatch batch = testing::calibration_rows(testing::tiny_config(), ids(), kSeed, 1024);
  const auto [mean, variance] = largest_differences(statistics_of(out(), batch)[1], statistics_of(dense(), batch)[1]);
  EXPECT_LT(mean, 1e-3);
  EXPECT_LT(variance, 1e-3);
}

TEST_F(AlignmentTest, NeedsTextAndAKnownName) {
  const auto with = [&](const std::string& alignment, const std::filesystem::path& text) {
    v1::ConvertSpec spec = testing::convert_spec("independent_random", 6, 2, text);
    spec.mutable_scale()->set_alignment(alignment);
    return spec;
  };
  EXPECT_THAT(refusal(with("variance", {})),
              ::testing::HasSubstr("calibration.data is empty, and scale.alignment variance needs text"));
  EXPECT_THAT(refusal(with("variances", ids())),
              ::testing::HasSubstr("scale.alignment is 'variances'; expected one of none, variance, mean_variance"));
}

}  // namespace
}  // namespace moe
