// Conversions with a learned gate on shared experts: at the default scale the model that they make without one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "testing/compare.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Case {
  const char* name;
  const char* method;
  int experts, shared_experts;
  const char* gate;
  double scale;
  int64_t rows;
  const char* shared = nullptr;  ///< ffn.options.shared
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class SharedGateConversionTest : public testing::ConversionTest {
 protected:
  v1::ConvertSpec spec_of(const std::string& method, int experts, int shared_experts) const {
    v1::ConvertSpec spec = testing::convert_spec(method, experts, 2, ids());
    spec.mutable_ffn()->set_shared_experts(shared_experts);
    spec.mutable_calibration()->set_tokens(400);
    return spec;
  }
  static void set_gate(v1::ConvertSpec& spec, const std::string& gate, double scale) {
    spec.mutable_ffn()->set_shared_gate(gate);
    spec.mutable_ffn()->set_shared_gate_scale(scale);
  }
  std::string refusal(const std::function<void(v1::FfnExpertsSpec&)>& change, const std::string& method = "residual") {
    v1::ConvertSpec spec = spec_of(method, 4, 2);
    change(*spec.mutable_ffn());
    try {
      testing::convert(spec, 1, dense(), out());
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "nothing was refused";
  }
  at::Tensor logits(const std::filesystem::path& model) const {
    return testing::logits_of(model, testing::random_batch({33, 1, 27}, testing::tiny_config().vocab_size, 5));
  }
};

class SharedGateInitTest : public SharedGateConversionTest, public ::testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(, SharedGateInitTest,
                         ::testing::Values(Case{"softmax", "residual", 4, 2, "softmax", 2, 2},
                                           Case{"softmax_of_3", "sharing_inter", 3, 3, "softmax", 3, 3},
                                           Case{"sigmoid", "residual", 5, 1, "sigmoid", 2, 1},
                                           Case{"sigmoid_of_2", "analytic", 4, 2, "sigmoid", 2, 1},
                                           Case{"widths_of_layers", "weave", 4, 0, "sigmoid", 2, 1, "adaptive"}),
                         [](const auto& test) { return test.param.name; });

TEST_P(SharedGateInitTest, HasTheLogitsAndTheReceiptOfTheSameWithoutAGate) {
  const Case& c = GetParam();
  v1::ConvertSpec spec = spec_of(c.method, c.experts, c.shared_experts);
  if (c.shared != nullptr) (*spec.mutable_ffn()->mutable_options())["shared"] = c.shared;
  const json plain = testing::convert(spec, 3, dense(), folder_ / "plain");
  set_gate(spec, c.gate, c.scale);
  const json gated = testing::convert(spec, 3, dense(), out());
  EXPECT_TRUE(testing::near(logits(out()), logits(folder_ / "plain"), 1e-6));

  const ModelDirectory without(folder_ / "plain"), with(out());
  const MoeConfig& moe = *with.config().moe;
  EXPECT_EQ(moe.shared_gate, c.gate);
  EXPECT_EQ(moe.shared_gate_rows, c.rows);
  EXPECT_EQ(moe.shared_gate_scale, c.scale);
  EXPECT_EQ(gated["shared_gate"], c.gate);
  EXPECT_FALSE(json::parse(read_file(folder_ / "plain" / "config.json"))["moe"].contains("shared_gate"));
  EXPECT_FALSE(plain.contains("shared_gate"));
  EXPECT_EQ(moe.shared_widths, without.config().moe->shared_widths);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const at::Tensor gate = with.tensor(concat("model.layers.", layer, ".mlp.shared_expert_gate.weight"));
    EXPECT_EQ(gate.sizes(), (std::vector<int64_t>{c.rows, 32}));
    EXPECT_EQ(gate.count_nonzero().item<int64_t>(), 0);
    const json &a = plain["layers"][layer], &b = gated["layers"][layer];
    for (const char* key : {"output_scale", "relative_ffn_error", "router_logit_deviation"})
      EXPECT_NEAR(a[key].get<double>(), b[key].get<double>(), 1e-5 * std::abs(a[key].get<double>())) << key;
    EXPECT_EQ(a["expert_load"], b["expert_load"]);
  }
  for (const char* stream : {"dense", "chosen", "all"})
    EXPECT_NEAR(plain["receipt"][stream]["loss"].get<double>(), gated["receipt"][stream]["loss"].get<double>(), 1e-5);
}

/// At another scale the shared experts count less at first: what they leave to the others is more, and the output scale
/// is fitted to that. All experts at weight 1 are the dense model all the same.
TEST_F(SharedGateConversionTest, WhatIsFittedSeesTheGate) {
  for (const char* mode : {"least_squares", "gap"}) {
    SCOPED_TRACE(mode);
    v1::ConvertSpec spec = spec_of("residual", 4, 2);
    spec.mutable_scale()->set_mode(mode);
    const json plain = testing::convert(spec, 3, dense(), folder_ / concat("plain-", mode));
    set_gate(spec, "softmax", 0.5);
    const json gated = testing::convert(spec, 3, dense(), folder_ / concat("gated-", mode));
    const double scale = plain["layers"][0]["output_scale"];
    EXPECT_GT(std::abs(gated["layers"][0]["output_scale"].get<double>() - scale), 1e-4 * std::abs(scale));
    EXPECT_LT(gated["receipt"]["all"]["relative_logit_difference"].get<double>(), 1e-5);
    // What the fit says of a layer is what the written model does: text goes through it as it was fitted.
    EXPECT_GT(gated["layers"][0]["relative_ffn_error"].get<double>(),
              plain["layers"][0]["relative_ffn_error"].get<double>());
  }
}

TEST_F(SharedGateConversionTest, OfNoneNothingIsWritten) {
  v1::ConvertSpec spec = spec_of("residual", 4, 2);
  testing::convert(spec, 3, dense(), folder_ / "absent");
  spec.mutable_ffn()->set_shared_gate("none");
  testing::convert(spec, 3, dense(), folder_ / "none");
  for (const char* file : {"config.json", "model.safetensors", "conversion.json"})
    EXPECT_EQ(read_file(folder_ / "absent" / file), read_file(folder_ / "none" / file)) << file;
}

TEST_F(SharedGateConversionTest, IsTheSameOnAnyNumberOfRanks) {
  v1::ConvertSpec spec = spec_of("residual", 4, 2);
  set_gate(spec, "softmax", 1);
  expect_same_files_at_any_ranks(spec, {"config.json", "model.safetensors", "conversion.json"});
}

TEST_F(SharedGateConversionTest, WhatCannotBeIsSaid) {
  const auto gate = [](const std::string& name, double scale) {
    return [=](v1::FfnExpertsSpec& ffn) {
      ffn.set_shared_gate(name);
      ffn.set_shared_gate_scale(scale);
    };
  };
  EXPECT_THAT(refusal(gate("tanh", 2)), HasSubstr("'tanh'; expected none, softmax or sigmoid"));
  EXPECT_THAT(refusal(gate("none", 2)), HasSubstr("ffn.shared_gate_scale has no effect (2) with ffn.shared_gate none"));
  EXPECT_THAT(refusal(gate("sigmoid", -1)), HasSubstr("ffn.shared_gate_scale is -1; use a number greater than 0"));
  EXPECT_THAT(refusal([](v1::FfnExpertsSpec& ffn) { ffn.set_shared_gate("sigmoid"); }),
              HasSubstr("ffn.shared_gate_scale is 0"));
  const auto of_experts = [&](const std::string& name, int experts, int shared_experts) {
    return [=](v1::FfnExpertsSpec& ffn) {
      gate(name, 2)(ffn);
      ffn.set_experts(experts);
      ffn.set_shared_experts(shared_experts);
    };
  };
  EXPECT_THAT(refusal(of_experts("softmax", 5, 1)),
              AllOf(HasSubstr("ffn.shared_gate is 'softmax', and ffn.shared_experts is 1"), HasSubstr("2 or more")));
  EXPECT_THAT(refusal(of_experts("sigmoid", 4, 0), "weave"),
              HasSubstr("ffn.shared_gate is 'sigmoid', and ffn.shared_experts is 0, so that it weighs nothing"));
  EXPECT_THAT(refusal(of_experts("sigmoid", 4, 0), "independent_random"),
              HasSubstr("ffn.shared_gate is 'sigmoid', and ffn.method independent_random has no shared part"));
  EXPECT_THAT(refusal(
                  [&](v1::FfnExpertsSpec& ffn) {
                    of_experts("softmax", 4, 0)(ffn);
                    (*ffn.mutable_options())["shared"] = "adaptive";
                  },
                  "weave"),
              HasSubstr("ffn.shared_experts is 0: it weighs shared experts against each other"));
}

}  // namespace
}  // namespace moe
