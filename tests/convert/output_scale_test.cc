#include "convert/output_scale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "convert/conversion_fixture.h"
#include "model/moe/moe_layer.h"
#include "testing/random_tensor.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

at::Tensor normal(const std::vector<int64_t>& shape, double deviation, uint32_t stream) {
  return (testing::random_normal(shape, 8, at::kDouble, stream) * deviation).to(at::kFloat);
}

struct Cell {
  int64_t experts, top_k;
  const char* mode;
  double scale;
};

/// The table of llama-moe-v1 1.11: scale by mode, and from it the output's energy and error for uncorrelated experts.
constexpr Cell kCells[] = {{16, 4, "n_over_k", 4},
                           {16, 4, "k", 4},
                           {16, 4, "energy", 8},
                           {16, 4, "unbiased", 16},
                           {8, 2, "n_over_k", 4},
                           {8, 2, "k", 2},
                           {8, 2, "energy", 4},
                           {8, 2, "unbiased", 8},
                           {16, 2, "n_over_k", 8},
                           {16, 2, "k", 2},
                           {16, 2, "energy", 5.65685},
                           {16, 2, "unbiased", 16},
                           {16, 4, "sqrt_n_over_k", 2},
                           {8, 2, "sqrt_n_over_k", 2},
                           {16, 2, "sqrt_n_over_k", 2.82843}};

class ScaleCellTest : public ::testing::TestWithParam<Cell> {};

/// Gaussian experts, a router that chooses at random with nearly equal weights: RMS ratio S / sqrt(K N), squared error
/// 1 - 2 S / N + S^2 / (K N).
TEST_P(ScaleCellTest, HasTheStatisticsOfTheTable) {
  const auto [experts, top_k, mode, expected_scale] = GetParam();
  constexpr int64_t kHidden = 256, kWidth = 1024, kTokens = 2000;
  const int64_t width = kWidth / experts;
  const double scale = closed_form_scale(mode, experts, top_k, 0);
  EXPECT_NEAR(scale, expected_scale, 1e-5);

  MoeWeights weights;
  weights.router.weight_ED = normal({experts, kHidden}, 1e-5, 1);
  weights.gate_up = normal({experts, 2 * width, kHidden}, 1 / std::sqrt(double{kHidden}), 2);
  weights.down = normal({experts, kHidden, width}, 1 / std::sqrt(double{kWidth}), 3);
  const at::Tensor x = normal({kTokens, kHidden}, 1, 4);
  LocalDispatcher dispatcher;
  const at::Tensor s = moe_layer(weights, {experts, {.top_k = top_k}}, x, dispatcher, 0).y_TD;
  const at::Tensor y =
      moe_layer(weights, {experts, {.top_k = experts}}, x, dispatcher, 0).y_TD * static_cast<double>(experts);

  const OutputFit fit = fit_output(y, s, *make_self_communicator());
  const double n = static_cast<double>(experts), k = static_cast<double>(top_k);
  EXPECT_NEAR(scale * std::sqrt(fit.s_s / fit.y_y) / (scale / std::sqrt(k * n)), 1, 0.03);
  const double error = 1 - 2 * scale / n + scale * scale / (k * n);
  EXPECT_NEAR(fit.relative_error(scale) / error, 1, 0.03);
  EXPECT_NEAR(fit.least_squares() / k, 1, 0.03) << "K is the least-squares optimum of uncorrelated experts";
}

INSTANTIATE_TEST_SUITE_P(Table, ScaleCellTest, ::testing::ValuesIn(kCells), [](const auto& each) {
  return std::to_string(each.param.top_k) + "of" + std::to_string(each.param.experts) + "_" + each.param.mode;
});

TEST(ClosedFormScaleTest, FixedAndUnknown) {
  EXPECT_EQ(closed_form_scale("fixed", 8, 2, 2.5), 2.5);
  EXPECT_THAT([] { closed_form_scale("enrgy", 8, 2, 0); },
              ThrowsMessage<InvalidArgument>(::testing::AllOf(HasSubstr("enrgy"), HasSubstr("energy"),
                                                              HasSubstr("fixed"), HasSubstr("per_layer"))));
}

/// The third converted layer takes the third value.
TEST(ClosedFormScaleTest, PerLayerIsByPlace) {
  v1::ScaleSpec spec;
  spec.set_mode("per_layer");
  for (const double value : {1.5, 2.0, 0.25}) spec.add_values(value);
  EXPECT_EQ(closed_form_scale(spec, 8, 2, 2), 0.25);
  EXPECT_EQ(closed_form_scale(spec, 8, 2, 0), 1.5);
}

/// A dense gap of 10 / 2 = 5 and one of 8 / 4 = 2: experts at 2 / 5 add 1.6 to 8, as the dense layer 2 to 10.
TEST(StreamGapTest, ExpertsAddInProportionWhatTheDenseLayerDoes) {
  EXPECT_DOUBLE_EQ((StreamGap{.dense_stream = 10, .dense_output = 2, .stream = 8, .output = 4}.scale()), 0.4);
  EXPECT_EQ((StreamGap{.dense_stream = 10, .dense_output = 2, .stream = 8, .output = 0}.scale()), 1);
  const at::Tensor x = normal({60, 8}, 1, 9), y = normal({60, 8}, 2, 10), z = normal({60, 8}, 3, 11),
                   s = normal({60, 8}, 1, 12);
  const auto norm = [](const at::Tensor& values) { return values.to(at::kDouble).abs().sum().item<double>(); };
  const StreamGap whole = stream_gap({x, y, z, s}, *make_self_communicator());
  EXPECT_NEAR(whole.scale(), norm(z) / norm(s) / (norm(x) / norm(y)), 1e-9);
  testing::run_ranks(3, [&](Communicator& world) {
    // The last rank has no tokens.
    const int64_t first = world.rank() * 30, last = std::min<int64_t>(60, first + 30);
    const auto mine = [&](const at::Tensor& values) { return values.slice(0, first, last); };
    EXPECT_EQ(stream_gap({mine(x), mine(y), mine(z), mine(s)}, world).scale(), whole.scale()) << "to the last bit";
  });
}

/// Against the error worked out from the tensors themselves, over a fine grid of scales.
TEST(OutputFitTest, LeastSquaresIsTheMinimumAndTheErrorIsTheDefinition) {
  const at::Tensor y = normal({50, 16}, 1, 5), s = y * 0.3 + normal({50, 16}, 0.4, 6);
  const OutputFit fit = fit_output(y, s, *make_self_communicator());
  const at::Tensor y64 = y.to(at::kDouble), s64 = s.to(at::kDouble);
  const auto error = [&](double scale) {
    return ((y64 - s64 * scale).square().sum() / y64.square().sum()).item<double>();
  };
  const double best = fit.least_squares();
  EXPECT_NEAR(fit.relative_error(best), error(best), 1e-9);
  EXPECT_NEAR(fit.relative_error(4), error(4), 1e-9);
  for (double step = -1; step <= 1; step += 0.01) EXPECT_LE(error(best), error(best + step) + 1e-12);
}

TEST(OutputFitTest, SumsOverRanks) {
  const at::Tensor y = normal({60, 8}, 1, 7), s = normal({60, 8}, 1, 8);
  const OutputFit whole = fit_output(y, s, *make_self_communicator());
  testing::run_ranks(3, [&](Communicator& world) {
    // The last rank has no tokens.
    const int64_t first = world.rank() * 30, last = std::min<int64_t>(60, first + 30);
    const OutputFit fit = fit_output(y.slice(0, first, last), s.slice(0, first, last), world);
    EXPECT_EQ(fit.y_s, whole.y_s) << "to the last bit";
    EXPECT_EQ(fit.s_s, whole.s_s);
    EXPECT_EQ(fit.y_y, whole.y_y);
  });
}

TEST(OutputFitTest, SilentExpertsKeepScaleOne) {
  const at::Tensor zero = at::zeros({4, 4});
  const OutputFit fit = fit_output(zero, zero, *make_self_communicator());
  EXPECT_EQ(fit.least_squares(), 1);
  EXPECT_EQ(fit.relative_error(1), 0);
}

/// A scale of 1 is for experts that give nothing; sums that are not numbers must not look like that.
TEST(OutputFitTest, OfNothingIsOneAndOfNaNIsNaN) {
  const auto self = make_self_communicator();
  const at::Tensor y = normal({5, 4}, 1, 1), zero = at::zeros({5, 4}), spoilt = at::full({5, 4}, NAN);
  const OutputFit nothing = fit_output(y, zero, *self), silent = fit_output(zero, y, *self);
  EXPECT_EQ(nothing.least_squares(), 1);
  EXPECT_EQ(nothing.relative_error(1), 1);
  EXPECT_EQ(silent.least_squares(), 0);
  EXPECT_EQ(silent.relative_error(3), 0);
  EXPECT_TRUE(std::isnan(fit_output(y, spoilt, *self).least_squares()));
  EXPECT_TRUE(std::isnan(fit_output(spoilt, y, *self).least_squares()));
  EXPECT_TRUE(std::isnan(fit_output(spoilt, y, *self).relative_error(1)));
}

class SharedScaleTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  SharedScaleTest() : ConversionTest(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Kinds, SharedScaleTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// The shared expert is not scaled: the factor is the best for what it leaves of the dense output, biases aside. In
/// double, on what the first layer's FFN reads of the calibration text.
TEST_P(SharedScaleTest, LeastSquaresFitsWhatTheSharedExpertLeaves) {
  const at::NoGradGuard no_grad;
  v1::ConvertSpec spec = testing::method_spec("residual", 6, 2, ids());
  spec.mutable_calibration()->set_tokens(500);
  const double scale = testing::convert(spec, 3, dense(), out())["layers"][0]["output_scale"];
  const ModelDirectory source(dense()), written(out());
  const PackedBatch batch = testing::calibration_rows(source.config(), ids(), 3, 500);
  LocalDispatcher dispatcher;
  at::Tensor x;
  load_decoder(source, at::kFloat, {})
      .forward({batch.tokens_T, batch.cu_seqlens}, dispatcher,
               {.observer = [&](int64_t layer, LayerPoint point, const at::Tensor& values) {
                 if (layer == 0 && point == LayerPoint::kFfnInput) x = values.to(at::kDouble);
               }});
  FeedForwardWeights wanted = std::get<FeedForwardWeights>(load_layer(source, 0, at::kDouble).ffn);
  MoeFeedForward mixture = std::get<MoeFeedForward>(load_layer(written, 0, at::kDouble).ffn);
  ASSERT_TRUE(mixture.weights.shared);
  wanted.down_bias = mixture.weights.output_bias = at::Tensor();
  const at::Tensor left = feed_forward(wanted, x) - feed_forward(*mixture.weights.shared, x);
  mixture.weights.shared.reset();
  mixture.options.output_scale = 1;
  const at::Tensor routed = moe_layer(mixture.weights, mixture.options, x, dispatcher, 0).y_TD;
  const double expected = (left * routed).sum().item<double>() / routed.square().sum().item<double>();
  EXPECT_NEAR(scale, expected, 1e-3 * std::abs(expected));
  const double of_all = (feed_forward(wanted, x) * routed).sum().item<double>() / routed.square().sum().item<double>();
  EXPECT_GT(std::abs(of_all - expected), 2e-3 * std::abs(expected)) << "the shared expert makes no difference here";
}

using ScaleModesTest = testing::ConversionTest;

/// The first layer sees the same inputs whatever its scale, so the fitted scale must have the smallest error of all
/// modes there.
TEST_F(ScaleModesTest, LeastSquaresHasTheSmallestErrorOfAllModes) {
  std::map<std::string, double> error;
  for (const std::string& mode : scale_modes()) {
    v1::ConvertSpec spec = testing::convert_spec("independent_random", 8, 2, ids());
    testing::set_scale_mode(*spec.mutable_scale(), mode);
    const nlohmann::json report = testing::convert(spec, 1, dense(), folder_ / mode);
    error[mode] = report["layers"][0]["relative_ffn_error"];
    EXPECT_GT(report["layers"][1]["relative_ffn_error"].get<double>(), 0) << "the error is reported for every mode";
    EXPECT_GT(report["receipt"]["chosen"]["loss"].get<double>(), 0) << "and the loss";
  }
  EXPECT_GT(error.size(), 8U);
  for (const auto& [mode, value] : error) {
    if (mode == "least_squares") continue;
    EXPECT_GT(value, error["least_squares"]) << mode;
  }
}

/// One of both layers, or of layer 1 alone where layer 0 stays dense.
TEST_F(ScaleModesTest, ScalesOfEachLayerStandInTheirOrder) {
  v1::ConvertSpec spec = testing::convert_spec("independent_random", 4, 2, ids());
  testing::set_scale_mode(*spec.mutable_scale(), "per_layer");
  testing::convert(spec, 1, dense(), folder_ / "both");
  EXPECT_EQ(ModelDirectory(folder_ / "both").config().moe->output_scale, (std::vector<double>{1.9, 2.3}));
  spec.mutable_ffn()->add_layers("1");
  EXPECT_THAT(refusal(spec), HasSubstr("scale.values has 2 numbers for 1 layers that become experts"));
  spec.mutable_scale()->clear_values();
  spec.mutable_scale()->add_values(1.25);
  testing::convert(spec, 1, dense(), folder_ / "one");
  EXPECT_EQ(ModelDirectory(folder_ / "one").config().moe->output_scale[1], 1.25);
  spec.mutable_scale()->set_values(0, INFINITY);
  EXPECT_THAT(refusal(spec), HasSubstr("scale.values.0 is inf"));
  spec.mutable_scale()->set_mode("k");
  EXPECT_THAT(refusal(spec), HasSubstr("scale.values has no effect with scale.mode 'k'"));
}

}  // namespace
}  // namespace moe
