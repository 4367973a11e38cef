// What copies of a dense FFN are made of, and at which scale they are its function.

#include "convert/methods/upcycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::convert;
using ::testing::HasSubstr;
using testing::set_option;

v1::ConvertSpec upcycle_spec(const std::string& variant, int experts, int top_k,
                             const std::filesystem::path& calibration = {}) {
  v1::ConvertSpec spec = testing::convert_spec("upcycle", experts, top_k, calibration);
  set_option(spec, "variant", variant);
  return spec;
}

v1::ConvertSpec granular_spec(int groups, int experts, int top_k, const std::filesystem::path& calibration = {}) {
  v1::ConvertSpec spec = upcycle_spec("granular", experts, top_k, calibration);
  set_option(spec, "groups", std::to_string(groups));
  spec.mutable_router()->set_topk_norm("renorm");
  return spec;
}

void set_scale(v1::ConvertSpec& spec, double scale) {
  spec.mutable_scale()->set_mode("fixed");
  spec.mutable_scale()->set_value(scale);
}

class UpcycleTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  UpcycleTest() : ConversionTest(GetParam()) {}
  static TokenBatch batch() { return testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4); }
  ::testing::AssertionResult is_dense(const std::filesystem::path& model) const {
    return testing::near(testing::logits_of(model, batch()), testing::logits_of(dense(), batch()), 1e-5);
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, UpcycleTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

struct Granularity {
  int groups, experts, top_k;
};
constexpr Granularity kGranularities[] = {{1, 3, 2}, {2, 8, 2}, {2, 8, 4}, {3, 6, 3}, {4, 8, 4}, {4, 16, 8}, {8, 8, 8}};

/// Whole copies are chosen, whose weights sum to 1: the dense function at scale G, given or found.
TEST_P(UpcycleTest, GranularIsTheDenseFunctionAtItsTopK) {
  for (const auto& [groups, experts, top_k] : kGranularities) {
    const std::string name = concat(groups, "_", experts, "_", top_k);
    v1::ConvertSpec given = granular_spec(groups, experts, top_k);
    set_scale(given, groups);
    convert(given, 3, dense(), folder_ / ("given" + name));
    EXPECT_TRUE(is_dense(folder_ / ("given" + name))) << name;

    const json report = convert(granular_spec(groups, experts, top_k, ids()), 3, dense(), folder_ / ("found" + name));
    EXPECT_TRUE(is_dense(folder_ / ("found" + name))) << name;
    for (const json& layer : report["layers"]) {
      EXPECT_NEAR(layer["output_scale"].get<double>(), groups, 1e-5 * groups) << name;
      EXPECT_LT(layer["relative_ffn_error"].get<double>(), 1e-9) << name;
    }
  }
}

/// Weights that do not sum to 1 over the chosen: E G / k for softmax over all with equal rows, G / k for weights of 1.
TEST_P(UpcycleTest, ScalesOfOtherWeights) {
  const struct {
    const char* norm;
    const char* init;
    double scale;
  } cases[] = {{"raw", "zero", 4}, {"straight_through", "zero", 0.5}, {"straight_through", "kaiming", 0.5}};
  for (const auto& [norm, init, scale] : cases) {
    v1::ConvertSpec spec = granular_spec(2, 8, 4);
    spec.mutable_router()->set_topk_norm(norm);
    spec.mutable_router()->set_init(init);
    set_scale(spec, scale);
    const std::filesystem::path output = folder_ / concat(norm, init);
    convert(spec, 3, dense(), output);
    EXPECT_TRUE(is_dense(output)) << norm << init;
    set_scale(spec, scale * 1.01);
    convert(spec, 3, dense(), output.string() + "off");
    EXPECT_FALSE(is_dense(output.string() + "off")) << "another scale would pass";
  }
}

/// The published form: gate, up and down times the cube root of 2, or up and down times the square root of it.
TEST_P(UpcycleTest, TheScaleMayStandInTheWeights) {
  v1::ConvertSpec spec = granular_spec(2, 8, 2);
  set_scale(spec, 1);
  spec.set_preset("published");
  convert(spec, 3, dense(), out());
  const ModelDirectory made(out()), model(dense());
  const bool is_gated = model.config().is_gated;
  const double factor = is_gated ? 1.2599210498948732 : 1.4142135623730951;
  for (const auto& [part, is_down] : {std::pair(TensorPart::kUp, false), std::pair(TensorPart::kDown, true)}) {
    const at::Tensor whole = model.tensor(tensor_name(model.config(), {part, 0, kNoExpert})),
                     shard = is_down ? whole.slice(1, 24) : whole.slice(0, 24);
    EXPECT_TRUE(testing::near(made.tensor(tensor_name(made.config(), {part, 0, 3})), shard * factor, 1e-6));
  }
  EXPECT_EQ(made.config().moe->output_scale[0], 1);
  set_option(spec, "scaled", "output");
  set_scale(spec, 2);
  convert(spec, 3, dense(), folder_ / "exact");
  EXPECT_TRUE(is_dense(folder_ / "exact"));
}

/// Unlike rows, softmax over all: not the dense function at any scale.
TEST_P(UpcycleTest, RawWeightsOfUnlikeRowsAreNotExact) {
  v1::ConvertSpec spec = granular_spec(2, 8, 4, ids());
  spec.mutable_router()->set_topk_norm("raw");
  const json report = convert(spec, 3, dense(), out());
  EXPECT_GT(report["layers"][0]["relative_ffn_error"].get<double>(), 1e-3);
}

/// Expert c G + i is shard i, bit for bit, and copies share their router row.
TEST_P(UpcycleTest, ExpertsAreConsecutiveShardsOfEachCopy) {
  convert(granular_spec(3, 6, 3, ids()), 3, dense(), out());
  const ModelDirectory source(dense()), made(out());
  EXPECT_EQ(made.config().moe->expert_widths, (std::vector<int64_t>{16, 16}));
  const ModelConfig& config = source.config();
  for (const int64_t layer : {0, 1}) {
    for (const TensorPart part : {TensorPart::kGate, TensorPart::kUp, TensorPart::kDown}) {
      for (const bool is_bias : {false, true}) {
        if (part == TensorPart::kGate && !config.is_gated) continue;
        if (is_bias && (part == TensorPart::kDown || !config.mlp_bias)) continue;
        const at::Tensor whole = source.tensor(tensor_name(config, {part, layer, kNoExpert, is_bias}));
        const int64_t begins[] = {0, 16, 32, 0, 16, 32};
        for (int64_t expert = 0; expert < 6; ++expert) {
          EXPECT_TRUE(at::equal(made.tensor(tensor_name(config, {part, layer, expert, is_bias})),
                                whole.narrow(part == TensorPart::kDown ? 1 : 0, begins[expert], 16)));
        }
      }
    }
    const at::Tensor router = made.tensor(concat("model.layers.", layer, ".mlp.router.weight"));
    for (const int64_t row : {1, 2}) {
      EXPECT_TRUE(at::equal(router[row], router[0]));
      EXPECT_TRUE(at::equal(router[3 + row], router[3]));
    }
    EXPECT_FALSE(at::allclose(router[0], router[3]));
  }
}

/// Every rank would make the same experts.
TEST_P(UpcycleTest, RanksDoNotChangeAByte) {
  for (const char* variant : {"copy", "noise", "drop", "granular"}) {
    v1::ConvertSpec spec = upcycle_spec(variant, 4, 2, ids());
    spec.mutable_router()->set_init("kaiming");
    spec.mutable_calibration()->set_tokens(250);
    convert(spec, 1, dense(), folder_ / variant);
    for (const int ranks : {2, 4}) {
      const std::filesystem::path output = folder_ / concat(variant, ranks);
      testing::run_ranks(ranks, [&](Communicator& world) { convert(spec, 1, dense(), output, world); });
      EXPECT_EQ(read_file(output / "model.safetensors"), read_file(folder_ / variant / "model.safetensors"))
          << variant << ranks;
    }
  }
}

/// A dense model whose three matrices have means and deviations of their own, with biases.
class RandomUpcycleTest : public testing::ConversionTest {
 protected:
  RandomUpcycleTest() {
    testing::write_dense_model(biased(), config_, 11, [](const Parameter& parameter) {
      for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
        at::Tensor view = logical.view;
        if (logical.name.ends_with("gate_proj.weight")) view.add_(1);
        if (logical.name.ends_with("up_proj.weight")) view.mul_(4);
        if (logical.name.ends_with("down_proj.weight")) view.sub_(0.2).mul_(0.5);
      }
    });
  }
  std::filesystem::path biased() const { return folder_ / "biased"; }

  /// Rows of gate and up, columns of down as rows: [neurons, hidden].
  at::Tensor neurons(const std::filesystem::path& model, TensorPart part, int64_t layer, int64_t expert) const {
    const ModelDirectory directory(model);
    const at::Tensor weight = directory.tensor(tensor_name(config_, {part, layer, expert})).clone();
    return part == TensorPart::kDown ? weight.t().contiguous() : weight;
  }
  at::Tensor bias(const std::filesystem::path& model, TensorPart part, int64_t layer, int64_t expert) const {
    const ModelDirectory directory(model);
    return directory.tensor(tensor_name(config_, {part, layer, expert, true})).clone();
  }

  static constexpr TensorPart kParts[] = {TensorPart::kGate, TensorPart::kUp, TensorPart::kDown};
  const ModelConfig config_ = testing::tiny_config("llama_biases");
};

TEST_F(RandomUpcycleTest, NoiseIsNormalAndAsStrongAsAsked) {
  v1::ConvertSpec spec = upcycle_spec("noise", 3, 2);
  set_option(spec, "noise", "0.25");
  convert(spec, 1, biased(), out());
  std::vector<at::Tensor> all;
  for (const int64_t layer : {0, 1}) {
    for (int64_t expert = 0; expert < 3; ++expert) {
      for (const TensorPart part : kParts) {
        const at::Tensor before = neurons(biased(), part, layer, kNoExpert).to(at::kDouble),
                         noise = neurons(out(), part, layer, expert).to(at::kDouble) - before;
        const double deviation = before.std(false).item<double>();
        // 48 x 32 draws: the deviation of theirs is known to 1.8 %, their mean to 2.6 % of it.
        EXPECT_NEAR(noise.std(false).item<double>() / deviation, 0.25, 0.02);
        EXPECT_NEAR(noise.mean().item<double>() / deviation, 0, 0.03);
        all.push_back((noise / noise.norm()).flatten());
      }
      EXPECT_TRUE(
          at::equal(bias(out(), TensorPart::kUp, layer, expert), bias(biased(), TensorPart::kUp, layer, kNoExpert)));
    }
  }
  // Layers, experts and matrices are independent: cosines of 1536 draws have a deviation of 0.026.
  const at::Tensor flat = at::stack(all);
  EXPECT_LT((at::matmul(flat, flat.t()) - at::eye(flat.size(0), at::kDouble)).abs().max().item<double>(), 0.13);
  // Three in a thousand normal numbers are beyond three deviations; of 27648, 75 with a deviation of 9.
  const at::Tensor standard = flat * std::sqrt(1536.0);
  EXPECT_NEAR(static_cast<double>(standard.abs().gt(3).sum().item<int64_t>()), 75, 40);
}

/// Which of the dense model's neurons an expert holds, by their gate rows.
std::set<int64_t> known_neurons(const at::Tensor& expert, const at::Tensor& whole) {
  std::set<int64_t> found;
  for (int64_t i = 0; i < expert.size(0); ++i) {
    for (int64_t j = 0; j < whole.size(0); ++j) {
      if (at::equal(expert[i], whole[j])) found.insert(j);
    }
  }
  return found;
}

/// floor(0.3 * 48) = 14 neurons of each expert are new, in all three matrices, as their block was.
TEST_F(RandomUpcycleTest, DropDrawsAShareOfTheNeuronsAnew) {
  v1::ConvertSpec spec = upcycle_spec("drop", 4, 2);
  set_option(spec, "rate", "0.3");
  convert(spec, 1, biased(), out());
  EXPECT_EQ(ModelDirectory(out()).config().moe->expert_widths, (std::vector<int64_t>{48, 48}));
  std::set<std::set<int64_t>> choices;
  for (const int64_t layer : {0, 1}) {
    for (int64_t expert = 0; expert < 4; ++expert) {
      const std::set<int64_t> kept = known_neurons(neurons(out(), TensorPart::kGate, layer, expert),
                                                   neurons(biased(), TensorPart::kGate, layer, kNoExpert));
      ASSERT_EQ(kept.size(), 34U);
      choices.insert(kept);
      std::vector<int64_t> stay(kept.begin(), kept.end()), gone;
      for (int64_t i = 0; i < 48; ++i) {
        if (!kept.contains(i)) gone.push_back(i);
      }
      for (const TensorPart part : kParts) {
        const at::Tensor before = neurons(biased(), part, layer, kNoExpert),
                         after = neurons(out(), part, layer, expert);
        EXPECT_TRUE(at::equal(after.narrow(0, 0, 34), before.index_select(0, at::tensor(stay, at::kLong))));
        const at::Tensor replaced = before.index_select(0, at::tensor(gone, at::kLong)).to(at::kDouble),
                         drawn = after.narrow(0, 34, 14).to(at::kDouble);
        // 14 x 32 draws: four deviations of what their deviation and mean are known to.
        EXPECT_NEAR(drawn.std(false).item<double>() / replaced.std(false).item<double>(), 1, 0.134);
        EXPECT_NEAR((drawn.mean() - replaced.mean()).item<double>() / replaced.std(false).item<double>(), 0, 0.19);
      }
      stay.insert(stay.end(), gone.begin(), gone.end());
      EXPECT_TRUE(
          at::equal(bias(out(), TensorPart::kGate, layer, expert),
                    bias(biased(), TensorPart::kGate, layer, kNoExpert).index_select(0, at::tensor(stay, at::kLong))));
    }
  }
  EXPECT_EQ(choices.size(), 8U) << "each expert of each layer draws others";
}

TEST_F(RandomUpcycleTest, DropOfNoneAndOfAll) {
  for (const char* rate : {"0", "0.02", "1"}) {
    v1::ConvertSpec spec = upcycle_spec("drop", 2, 2);
    set_option(spec, "rate", rate);
    convert(spec, 1, biased(), folder_ / rate);
    const size_t kept = known_neurons(neurons(folder_ / rate, TensorPart::kGate, 0, 1),
                                      neurons(biased(), TensorPart::kGate, 0, kNoExpert))
                            .size();
    EXPECT_EQ(kept, rate == std::string("1") ? 0U : 48U) << rate;
  }
}

TEST_F(RandomUpcycleTest, OptionsAndSizesThatDoNotFit) {
  EXPECT_THAT(refusal(granular_spec(5, 10, 5)),
              AllOf(HasSubstr("ffn.options.groups 5"), HasSubstr("FFN width 48"), HasSubstr("1, 2, 3, 4, 6, 8")));
  EXPECT_THAT(refusal(granular_spec(4, 6, 4)),
              AllOf(HasSubstr("ffn.experts 6"), HasSubstr("groups 4"), HasSubstr("use 4, 8")));
  EXPECT_THAT(refusal(granular_spec(4, 8, 2)),
              AllOf(HasSubstr("ffn.top_k 2"), HasSubstr("groups 4"), HasSubstr("use 4, 8")));
  v1::ConvertSpec spec = upcycle_spec("drop", 2, 2);
  set_option(spec, "noise", "0.1");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.options.noise has no effect"), HasSubstr("variant drop"),
                                   HasSubstr("set variant: noise")));
  spec = testing::convert_spec("upcycle", 2, 2);
  set_option(spec, "groups", "2");
  EXPECT_THAT(refusal(spec), AllOf(HasSubstr("ffn.options.groups has no effect"), HasSubstr("variant copy")));
  spec = upcycle_spec("copy", 2, 2);
  spec.mutable_ffn()->set_shared_experts(1);
  EXPECT_THAT(refusal(spec), HasSubstr("upcycle has no shared part"));
}

}  // namespace
}  // namespace moe
