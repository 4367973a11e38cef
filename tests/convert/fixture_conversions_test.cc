// Conversions whose plans are more than equal parts: shared parts, unequal widths, importance, several models, values
// made anew. The methods stand in fixture_methods.cc.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "checkpoint/model_writer.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/converter.h"
#include "convert/fixture_methods.h"
#include "testing/compare.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"
#include "testing/work_log.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::convert_by_fixture;
using testing::convert_spec;

constexpr int64_t kExperts = 4;

at::Tensor indices(const std::filesystem::path& model, const std::string& name) {
  return SafetensorsFile(model / "conversion.safetensors").tensor(name).to(at::kLong);
}

class FixtureConversionTest : public testing::ConversionTest, public ::testing::WithParamInterface<const char*> {
 protected:
  FixtureConversionTest() : ConversionTest(GetParam()), world_(make_self_communicator()) {}

  std::unique_ptr<Communicator> world_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, FixtureConversionTest, ::testing::ValuesIn(testing::kTinyKinds),
                         [](const auto& test) { return std::string(test.param); });

/// Widths of a plan, to config.json, to the tensors, to the indices, bit for bit from the source.
TEST_P(FixtureConversionTest, SharedPartAndUnequalWidthsAreWrittenAndRead) {
  const json report = convert_by_fixture(convert_spec("shared_uneven", kExperts, 2, ids()), 1, dense(), out(), *world_);
  const std::vector<int64_t> widths{3, 7, 11, 15};
  const ModelDirectory converted(out()), source(dense());
  const MoeConfig& moe = *converted.config().moe;
  EXPECT_EQ(json::parse(read_file(out() / "config.json"))["moe"]["expert_widths"], (json{widths, widths}));
  EXPECT_EQ(moe.expert_widths, (std::vector<int64_t>{15, 15}));
  EXPECT_EQ(moe.shared_widths, (std::vector<int64_t>{12, 12}));
  for (int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(report["layers"][layer]["expert_widths"], json(widths));
    EXPECT_EQ(report["layers"][layer]["shared_width"], 12);
    const at::Tensor neurons = indices(out(), concat("model.layers.", layer, ".mlp.experts.neurons")),
                     shared = indices(out(), concat("model.layers.", layer, ".mlp.shared_expert.neurons"));
    ASSERT_EQ(neurons.sizes(), at::IntArrayRef({kExperts, 15}));
    ASSERT_EQ(shared.sizes(), at::IntArrayRef({12}));
    std::multiset<int64_t> all;
    for (int64_t expert = 0; expert <= kExperts; ++expert) {
      const bool is_shared = expert == kExperts;
      const at::Tensor of_part = is_shared ? shared : neurons[expert].narrow(0, 0, widths[expert]);
      if (!is_shared) {
        EXPECT_TRUE(neurons[expert].slice(0, widths[expert]).eq(-1).all().item<bool>());
      }
      for (int64_t i = 0; i < of_part.numel(); ++i) all.insert(of_part[i].item<int64_t>());
      for (const TensorPart part : {TensorPart::kGate, TensorPart::kUp, TensorPart::kDown}) {
        if (part == TensorPart::kGate && !source.config().is_gated) continue;
        for (const bool is_bias : {false, true}) {
          if (is_bias && (part == TensorPart::kDown || !source.config().mlp_bias)) continue;
          const std::string from = tensor_name(source.config(), {part, layer, kNoExpert, is_bias}),
                            to = tensor_name(source.config(),
                                             {part, layer, is_shared ? kSharedExpert : expert, is_bias});
          EXPECT_TRUE(at::equal(converted.tensor(to),
                                source.tensor(from).index_select(part == TensorPart::kDown ? 1 : 0, of_part)))
              << to;
        }
      }
    }
    EXPECT_EQ(all.size(), 48U);
    EXPECT_EQ(std::set<int64_t>(all.begin(), all.end()).size(), 48U);
  }
}

/// The shared part at weight 1 and all experts at scale N: the dense function, also through the stacks that are filled
/// up with zeros. And the fit finds N on what the shared part leaves to the experts.
TEST_P(FixtureConversionTest, AllExpertsAtScaleNAndTheSharedPartAreTheDenseModel) {
  const TokenBatch batch = testing::random_batch({20, 7, 33}, testing::tiny_config().vocab_size, 4);
  for (const char* method : {"shared_uneven", "by_importance"}) {
    for (const char* scale : {"unbiased", "least_squares"}) {
      v1::ConvertSpec spec = convert_spec(method, kExperts, kExperts, ids());
      spec.mutable_router()->set_init("zero");
      spec.mutable_scale()->set_mode(scale);
      const std::filesystem::path output = folder_ / concat(method, scale);
      const json report = convert_by_fixture(spec, 3, dense(), output, *world_);
      for (const json& layer : report["layers"]) {
        EXPECT_NEAR(layer["output_scale"].get<double>(), kExperts, 1e-4) << method << scale;
        EXPECT_LT(layer["relative_ffn_error"].get<double>(), 1e-9) << method << scale;
      }
      const double tolerance = scale == std::string("unbiased") ? 1e-12 : 1e-4;
      EXPECT_TRUE(testing::near(testing::logits_of(output, batch, at::kDouble),
                                testing::logits_of(dense(), batch, at::kDouble), tolerance))
          << method << scale;
    }
  }
}

/// A layer sees the converted stream with its shared parts: what the report says of the second layer's error is what
/// the written model gives.
TEST_P(FixtureConversionTest, RanksDoNotChangeTheResult) {
  for (const char* method : {"shared_uneven", "by_importance"}) {
    v1::ConvertSpec spec = convert_spec(method, kExperts, 2, ids());
    spec.mutable_calibration()->set_tokens(250);
    const std::filesystem::path one = folder_ / concat(method, 1);
    const json expected = convert_by_fixture(spec, 1, dense(), one, *world_);
    for (const int ranks : {2, 5}) {
      const std::filesystem::path output = folder_ / concat(method, ranks);
      testing::run_ranks(ranks, [&](Communicator& world) {
        const json report = convert_by_fixture(spec, 1, dense(), output, world);
        for (int64_t layer = 0; layer < 2; ++layer) {
          EXPECT_NEAR(report["layers"][layer]["output_scale"].get<double>(),
                      expected["layers"][layer]["output_scale"].get<double>(), 1e-6);
          EXPECT_EQ(report["layers"][layer]["expert_load"], expected["layers"][layer]["expert_load"]);
        }
      });
      EXPECT_EQ(read_file(output / "conversion.safetensors"), read_file(one / "conversion.safetensors")) << method;
    }
  }
}

/// What training does: gradients, and the model written again. Zeros that fill up the stacks stay zeros.
TEST_P(FixtureConversionTest, UnequalExpertsTrainAndAreWrittenAgain) {
  convert_by_fixture(convert_spec("shared_uneven", kExperts, 2, ids()), 1, dense(), out(), *world_);
  const ModelDirectory converted(out());
  Decoder decoder = load_decoder(converted, at::kFloat, all_experts(converted.config()));
  testing::require_all_gradients(decoder);
  const TokenBatch batch = testing::random_batch({20, 7}, testing::tiny_config().vocab_size, 4);
  LocalDispatcher dispatcher;
  const at::Tensor labels = at::ones({27}, at::kLong);
  decoder.token_losses(decoder.forward(batch, dispatcher).hidden_TD, labels).sum().backward();
  int64_t stacks = 0;
  for (const Parameter& parameter : decoder.parameters()) {
    if (!parameter.is_expert) continue;
    ++stacks;
    at::Tensor padding = parameter.value.grad().clone();
    EXPECT_GT(padding.count_nonzero().item<int64_t>(), 0) << parameter.name;
    for (const LogicalView& view : logical_views(parameter, padding)) at::Tensor(view.view).zero_();
    EXPECT_EQ(padding.count_nonzero().item<int64_t>(), 0) << parameter.name;
  }
  EXPECT_GE(stacks, 4);
  const at::NoGradGuard no_grad;
  write_model(folder_ / "again", out(), decoder, converted.config(), at::kFloat, *world_, true);
  const ModelDirectory again(folder_ / "again");
  for (const TensorSpec& spec : logical_tensor_specs(converted.config()))
    EXPECT_TRUE(at::equal(again.tensor(spec.name), converted.tensor(spec.name))) << spec.name;
}

using FixtureTest = testing::ConversionTest;

/// Widths that only the plans tell, planned for all layers before one is written: twice the progress, and once more for
/// the gradients, and for the measurement.
TEST_F(FixtureTest, ImportanceSplitsByTheTextOfEachExpert) {
  testing::WorkLog log;
  const ModelDirectory source(dense());
  const v1::ConvertSpec spec = convert_spec("by_importance", kExperts, 2, ids());
  const auto world = make_self_communicator();
  const json report = convert_model({.spec = spec,
                                     .seed = 1,
                                     .source = source,
                                     .text = {},
                                     .output = out(),
                                     .monitor = log,
                                     .others = {},
                                     .methods = testing::fixture_methods()},
                                    *world);
  EXPECT_EQ(log.units(), "converting layer 1/8 2/8 3/8 4/8 5/8 6/8 7/8 8/8");
  EXPECT_EQ(report["layers"][0]["shared_width"], 8);
  EXPECT_FALSE(report["layers"][0].contains("expert_widths")) << "they are even";
  EXPECT_EQ(json::parse(read_file(out() / "config.json"))["moe"]["expert_widths"], (json{10, 10}));
  EXPECT_EQ(count_parameters(ModelDirectory(out()).config()).active,
            count_parameters(source.config()).total - 2 * (3 * 32 * 20) + 2 * kExperts * 32);
}

TEST_F(FixtureTest, WhatNeedsTextOrAnAbsentFolderSaysSo) {
  v1::ConvertSpec spec = convert_spec("by_importance", kExperts, 2);
  const auto work = [&] { convert_by_fixture(spec, 1, dense(), out(), *make_self_communicator()); };
  EXPECT_THAT(work, ::testing::ThrowsMessage<InvalidArgument>(
                        ::testing::HasSubstr("calibration.data is empty, and ffn.method by_importance needs text")));
  spec = convert_spec("by_importance", kExperts, 2, ids());
  std::filesystem::create_directory(out());
  EXPECT_THAT(work, ::testing::ThrowsMessage<InvalidArgument>(::testing::HasSubstr("exists already")));
}

/// Averages, factors, another model's neurons, new values, a router and a norm: each tensor by its definition.
TEST_F(FixtureTest, BlendOfTwoModels) {
  testing::write_dense_model(folder_ / "second", testing::tiny_config(), 77);
  for (const bool is_calibrated : {false, true}) {
    v1::ConvertSpec spec = convert_spec("blend", kExperts, 2, is_calibrated ? ids() : std::filesystem::path());
    const std::filesystem::path output = folder_ / concat("blend", is_calibrated);
    const json report = convert_by_fixture(spec, 1, dense(), output, *make_self_communicator(), {folder_ / "second"});
    const ModelDirectory a(dense()), b(folder_ / "second"), made(output);
    EXPECT_EQ(report["others"][0]["digest"], b.digest());
    EXPECT_FALSE(std::filesystem::exists(output / "conversion.safetensors")) << "numbers would not say it all";
    EXPECT_EQ(made.config().moe->uneven_widths.at(1), (std::vector<int64_t>{3, 3, 4, 6}));
    const at::Tensor few = at::tensor({5, 0, 7}, at::kLong), others = at::tensor({1, 2, 3}, at::kLong),
                     four = at::tensor({4}, at::kLong);
    for (const int64_t layer : {0, 1}) {
      const std::string mlp = concat("model.layers.", layer, ".mlp.");
      for (const auto& [part, dim] : {std::pair("gate_proj", 0), std::pair("up_proj", 0), std::pair("down_proj", 1)}) {
        const auto of = [&, part = part, dim = dim](const ModelDirectory& model, const at::Tensor& neurons) {
          return model.tensor(mlp + part + ".weight").index_select(dim, neurons);
        };
        const auto expert = [&, part = part](int64_t e) {
          return made.tensor(concat(mlp, "experts.", e, ".", part, ".weight"));
        };
        EXPECT_TRUE(testing::near(expert(0), (of(a, few) + of(b, others)) * 0.5, 1e-6)) << part;
        EXPECT_TRUE(at::equal(expert(1), of(b, few) * (dim == 1 ? 4 : 2))) << part;
        const at::Tensor taken = of(a, few);
        const at::Tensor remade = part == std::string("up_proj") ? taken + 1 : dim == 1 ? taken * 3 : taken;
        EXPECT_TRUE(at::equal(expert(2), at::cat({of(a, four), remade}, dim))) << part;
        EXPECT_TRUE(at::equal(expert(3), at::cat({of(b, others), of(a, few)}, dim))) << part;
      }
      EXPECT_TRUE(at::equal(made.tensor(mlp + "router.weight"), at::arange(128, at::kFloat).view({4, 32})));
      const std::string norm = concat("model.layers.", layer, ".input_layernorm.weight");
      EXPECT_TRUE(testing::near(made.tensor(norm), (a.tensor(norm) + b.tensor(norm)) * 0.5, 1e-6));
    }
    EXPECT_EQ(report["layers"][0].contains("relative_ffn_error"), is_calibrated);
  }
  v1::ConvertSpec spec = convert_spec("blend", kExperts, 2);
  testing::write_dense_model(folder_ / "qwen", testing::tiny_config("qwen2"), 77);
  EXPECT_THROW(convert_by_fixture(spec, 1, dense(), out(), *make_self_communicator(), {folder_ / "qwen"}),
               InvalidArgument);
}

}  // namespace
}  // namespace moe
