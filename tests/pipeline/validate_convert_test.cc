// Fields of a conversion that are wrong, missing or without effect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/validate.h"
#include "pipeline/validated_stages.h"

namespace moe {
namespace {

using testing::convert;
using ::testing::ElementsAre;
using testing::gate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::problems_of;

TEST(ValidateTest, FieldsOfConvert) {
  EXPECT_THAT(problems_of(convert("ffn: {experts: 0, top_k: 0}, router: {init: kaiming}, scale: {mode: k}")),
              ElementsAre("a.yaml:7: stages.convert.convert.ffn.method: missing; name a conversion method",
                          "a.yaml:7: stages.convert.convert.ffn.experts: must be at least 1 (0); it has no default",
                          "a.yaml:7: stages.convert.convert.ffn.top_k: must be at least 1 (0); it has no default"));
  EXPECT_THAT(
      problems_of(convert("ffn: {method: m, experts: 4, top_k: 5}, router: {init: kaiming}, scale: {mode: k}")),
      ElementsAre("a.yaml:7: stages.convert.convert.ffn.top_k: top_k 5 is greater than experts 4; choose at most "
                  "as many experts as "
                  "there are"));
  EXPECT_THAT(
      problems_of(convert(
          "preset: y, dtype: float16, ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming, scaling: z, "
          "topk_norm: x, score: tanh}, scale: {mode: n_over_q}, calibration: {tokens: 0, data: [{weight: 0}]}")),
      ElementsAre(
          "a.yaml:7: stages.convert.convert.preset: unknown value (y); known: ours, published",
          "a.yaml:7: stages.convert.convert.dtype: unknown value (float16); did you mean 'bfloat16'? known: source, "
          "float32, bfloat16",
          "a.yaml:7: stages.convert.convert.router.scaling: unknown value (z); known: calibrated, raw",
          "a.yaml:7: stages.convert.convert.router.topk_norm: unknown value (x); known: renorm, straight_through, raw, "
          "unit, one_plus",
          "a.yaml:7: stages.convert.convert.router.score: unknown value (tanh); known: softmax, sigmoid",
          "a.yaml:7: stages.convert.convert.scale.mode: unknown value (n_over_q); did you mean 'n_over_k'? known: "
          "least_squares, n_over_k, k, sqrt_n_over_k, energy, unbiased, fixed, gap, per_layer",
          "a.yaml:7: stages.convert.convert.calibration.data.0.path: missing; name a JSONL file",
          "a.yaml:7: stages.convert.convert.calibration.data.0.weight: must be greater than 0 (0)",
          "a.yaml:7: stages.convert.convert.calibration.tokens: must be at least 1 (0)"));
}

/// Numbers and ranges, in quotes or not; what the model has is known to who converts it.
TEST(ValidateTest, LayersOfConvert) {
  const auto layers = [](const std::string& list) {
    return problems_of(convert("ffn: {method: m, experts: 4, top_k: 2, layers: " + list +
                               "}, router: {init: kaiming}, scale: {mode: k}"));
  };
  EXPECT_THAT(layers("[0, 2-5, 8-]"), IsEmpty());
  EXPECT_THAT(layers("['0', \"2-5\", 999]"), IsEmpty());
  EXPECT_THAT(layers("[]"), IsEmpty());
  EXPECT_THAT(
      layers("[0, first, 4-2, 3-3, 3]"),
      ElementsAre("a.yaml:7: stages.convert.convert.ffn.layers.1: 'first' is no layer and no range of layers; write a "
                  "number from 0 on, FIRST-LAST, or FIRST- for all from there on",
                  "a.yaml:7: stages.convert.convert.ffn.layers.2: '4-2' ends before it begins; write the lower "
                  "layer first",
                  "a.yaml:7: stages.convert.convert.ffn.layers.4: '3' names layer 3, which '3-3' has already; "
                  "name each layer once"));
  EXPECT_THAT(layers("0-3"), ElementsAre(HasSubstr("expected a list, found")));
}

TEST(ValidateTest, OutputScaleAndFixedGoTogether) {
  EXPECT_THAT(
      problems_of(convert("ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: fixed}")),
      ElementsAre(
          "a.yaml:7: stages.convert.convert.scale.value: missing; scale.mode 'fixed' needs the scale of every layer"));
  EXPECT_THAT(
      problems_of(
          convert("ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: k, value: 2}")),
      ElementsAre(
          "a.yaml:7: stages.convert.convert.scale.value: has no effect (2) with scale.mode 'k'; set scale.mode: "
          "fixed or remove it"));
  EXPECT_THAT(problems_of(convert(
                  "ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: fixed, value: 0}")),
              ElementsAre("a.yaml:7: stages.convert.convert.scale.value: must be greater than 0 (0)"));
}

TEST(ValidateTest, ScalesOfEachLayer) {
  const std::string at = "a.yaml:7: stages.convert.convert.";
  const auto problems = [](const std::string& scale) {
    return problems_of(
        convert("ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {" + scale + "}"));
  };
  EXPECT_THAT(problems("mode: per_layer, values: [1.5, 2]"), IsEmpty());
  EXPECT_THAT(problems("mode: per_layer"),
              ElementsAre(at + "scale.values: missing; scale.mode 'per_layer' needs a scale of "
                               "each layer that becomes experts, in their order"));
  EXPECT_THAT(problems("mode: k, values: [2]"),
              ElementsAre(at + "scale.values: have no effect with scale.mode 'k'; set scale.mode: per_layer or remove "
                               "them"));
  EXPECT_THAT(problems("mode: per_layer, values: [1, 0, -2]"),
              ElementsAre(at + "scale.values.1: must be a number greater than 0 (0)",
                          at + "scale.values.2: must be a number greater than 0 (-2)"));
  EXPECT_THAT(problems_of(convert("attention: {experts: 4, top_k: 2, router: {init: zero}, scale: {mode: per_layer}}")),
              ElementsAre(HasSubstr("convert.attention.scale.values: missing")));
  EXPECT_THAT(problems("mode: gap"), ElementsAre(HasSubstr("calibration.data: missing; scale.mode 'gap' needs")));
}

TEST(ValidateTest, AlignmentAndReconstruction) {
  const std::string ffn = "ffn: {method: m, experts: 4, top_k: 2}, ", text = "calibration: {data: [{path: c}]}, ",
                    without_text = "router: {init: kaiming}, scale: {mode: k", at = "a.yaml:7: stages.convert.convert.";
  EXPECT_THAT(problems_of(convert(ffn + text + "scale: {alignment: mean_variance}, reconstruction: {steps: 50}")),
              IsEmpty());
  EXPECT_THAT(problems_of(convert(ffn + text +
                                  "scale: {alignment: mean}, reconstruction: {steps: 0, learning_rate: "
                                  "-1, batch_tokens: 0, parameters: routers}")),
              ElementsAre(HasSubstr(at + "scale.alignment: unknown value (mean)"),
                          at + "reconstruction.steps: must be at least 1 (0); it has no default",
                          at + "reconstruction.learning_rate: must be greater than 0 (-1)",
                          at + "reconstruction.batch_tokens: must be at least 1 (0)",
                          HasSubstr(at + "reconstruction.parameters: unknown value (routers)")));
  EXPECT_THAT(problems_of(convert(ffn + without_text + ", alignment: variance}, reconstruction: {steps: 5}")),
              ElementsAre(at + "calibration.data: missing; scale.alignment 'variance' needs calibration text: list "
                               "JSONL files, or remove it",
                          at + "calibration.data: missing; reconstruction trains on calibration text: list JSONL "
                               "files, or remove it"));
  EXPECT_THAT(problems_of(convert(ffn + text +
                                  "router: {topk_norm: unit}, reconstruction: {steps: 5, parameters: "
                                  "router}")),
              ElementsAre(HasSubstr(at + "reconstruction.parameters: router trains nothing: with router.topk_norm unit "
                                         "and ffn.top_k 2")));
  EXPECT_THAT(
      problems_of(convert("attention: {experts: 4, top_k: 2}, " + text + "reconstruction: {steps: 5}")),
      ElementsAre(at + "reconstruction: has no effect without ffn: feed-forward layers are trained; remove it"));
}

/// Attention alone, so that FFNs stay dense and have neither router nor scale.
TEST(ValidateTest, AttentionExperts) {
  EXPECT_THAT(problems_of(convert("attention: {experts: 4, top_k: 2}, calibration: {data: [{path: c.jsonl}]}")),
              ElementsAre());
  EXPECT_THAT(
      problems_of(convert("attention: {experts: 4, top_k: 2, router: {init: kaiming}, scale: {mode: n_over_k}}")),
      ElementsAre());
  EXPECT_THAT(problems_of(convert("attention: {experts: 4, top_k: 2, grouping: clustered}")),
              ElementsAre("a.yaml:7: stages.convert.convert.calibration.data: missing; attention.router.init "
                          "'random_selection' needs calibration text: list JSONL files, or set attention.router.init: "
                          "kaiming",
                          "a.yaml:7: stages.convert.convert.calibration.data: missing; attention.scale.mode "
                          "'least_squares' needs calibration text: list JSONL files, or set attention.scale.mode: "
                          "n_over_k",
                          "a.yaml:7: stages.convert.convert.calibration.data: missing; attention.grouping 'clustered' "
                          "needs calibration text: list JSONL files, or set attention.grouping: contiguous"));
  const std::string closed = "router: {init: zero}, scale: {mode: k}";
  EXPECT_THAT(
      problems_of(convert("attention: {experts: 4, top_k: 2, " + closed + "}, router: {init: zero}, scale: {mode: k}")),
      ElementsAre("a.yaml:7: stages.convert.convert.router: has no effect without ffn: it is of the feed-forward "
                  "layers' experts; write it as attention.router or remove it",
                  "a.yaml:7: stages.convert.convert.scale: has no effect without ffn: it is of the feed-forward "
                  "layers' experts; write it as attention.scale or remove it"));
  EXPECT_THAT(
      problems_of(
          convert("attention: {experts: 4, top_k: 4, always_on: 1, grouping: rows, kv_mode: none, layers: [x], " +
                  closed + "}")),
      ElementsAre(
          "a.yaml:7: stages.convert.convert.attention.top_k: top_k 4 is greater than the 3 routed experts "
          "(experts 4 less always_on 1); choose at most as many as there are",
          "a.yaml:7: stages.convert.convert.attention.grouping: unknown value (rows); known: contiguous, random, "
          "clustered",
          "a.yaml:7: stages.convert.convert.attention.kv_mode: unknown value (none); known: routed, dense",
          "a.yaml:7: stages.convert.convert.attention.layers.0: 'x' is no layer and no range of layers; write "
          "a number from 0 on, FIRST-LAST, or FIRST- for all from there on"));
  EXPECT_THAT(
      problems_of(convert("attention: {experts: 2, top_k: 1, always_on: 2, " + closed + "}")),
      ElementsAre("a.yaml:7: stages.convert.convert.attention.always_on: always_on 2 leaves no routed expert of "
                  "2; use at most 1"));
  EXPECT_THAT(
      problems_of(convert("attention: {experts: 4, top_k: 2, router: {init: zero, gate: mlp, noise: learned}, scale: "
                          "{mode: k, alignment: variance}}")),
      ElementsAre("a.yaml:7: stages.convert.convert.attention.router.gate: is 'mlp', which attention's routers do not "
                  "have; use linear or remove it",
                  "a.yaml:7: stages.convert.convert.attention.router.noise: is 'learned', which attention's routers do "
                  "not have; use none or remove it",
                  "a.yaml:7: stages.convert.convert.attention.scale.alignment: is 'variance', and only feed-forward "
                  "outputs are aligned; use none or remove it"));
}

TEST(ValidateTest, ARouterOfAttentionIsNotDistilled) {
  EXPECT_THAT(problems_of(convert("attention: {experts: 4, top_k: 2, router: {init: distilled}}, calibration: {data: "
                                  "[{path: b.jsonl}]}")),
              ElementsAre("a.yaml:7: stages.convert.convert.attention.router.init: is 'distilled', which learns from "
                          "experts of a feed-forward layer; use random_selection, hidden_clustering, pca, kaiming, "
                          "normal or zero"));
}

TEST(ValidateTest, RoutersHaveKnownGatesNoiseAndOptionsOfTheirInit) {
  const KnownNames known{{"router_inits", {"normal", "zero"}}, {"router_init_options", {"normal.deviation"}}};
  const std::string ffn = "ffn: {method: m, experts: 4, top_k: 2}, scale: {mode: k}, ",
                    at = "a.yaml:7: stages.convert.convert.";
  EXPECT_THAT(problems_of(convert(ffn + "router: {init: normal, gate: mlp, noise: learned, options: {deviation: 0.1}}"),
                          "{}", known),
              IsEmpty());
  EXPECT_THAT(
      problems_of(convert(ffn + "router: {init: zero, gate: tanh, noise: normal, options: {deviation: 1}}"), "{}",
                  known),
      ElementsAre(at + "router.gate: unknown value (tanh); known: linear, mlp, product",
                  at + "router.noise: unknown value (normal); known: none, learned, gumbel",
                  at + "router.options.deviation: unknown option (deviation) of router init zero; it has none"));
  EXPECT_THAT(problems_of(convert(ffn + "router: {init: distilled}")),
              ElementsAre(HasSubstr(at + "calibration.data: missing; router.init 'distilled' needs calibration text")));
}

TEST(ValidateTest, OptionsAreThoseOfTheMethod) {
  const KnownNames known{{"methods", {"sequential", "upcycle"}}, {"method_options", {"upcycle.noise", "upcycle.rate"}}};
  EXPECT_THAT(problems_of(convert("ffn: {method: upcycle, experts: 4, top_k: 2, options: {rate: 0.5}}, router: {init: "
                                  "kaiming}, scale: {mode: k}"),
                          "{}", known),
              IsEmpty());
  EXPECT_THAT(problems_of(convert("ffn: {method: upcycle, experts: 4, top_k: 2, options: {rat: 0.5}}, router: {init: "
                                  "kaiming}, scale: {mode: k}"),
                          "{}", known),
              ElementsAre("a.yaml:7: stages.convert.convert.ffn.options.rat: unknown option (rat) of method upcycle; "
                          "did you mean 'rate'?"));
  EXPECT_THAT(problems_of(convert("ffn: {method: upcycle, experts: 4, top_k: 2, options: {layers: 3}}, router: {init: "
                                  "kaiming}, scale: {mode: k}"),
                          "{}", known),
              ElementsAre("a.yaml:7: stages.convert.convert.ffn.options.layers: unknown option (layers) of method "
                          "upcycle; known: noise, rate"));
  EXPECT_THAT(problems_of(convert("ffn: {method: sequential, experts: 4, top_k: 2, options: {rate: 0.5}, "
                                  "shared_experts: -1, expert_width: 0}, router: {init: kaiming}, scale: {mode: k}"),
                          "{}", known),
              ElementsAre("a.yaml:7: stages.convert.convert.ffn.shared_experts: must be at least 0 (-1)",
                          "a.yaml:7: stages.convert.convert.ffn.expert_width: must be at least 1 (0)",
                          "a.yaml:7: stages.convert.convert.ffn.options.rate: unknown option (rate) of method "
                          "sequential; it has none"));
}

TEST(ValidateTest, WhatNeedsCalibrationTextSaysSo) {
  EXPECT_THAT(problems_of(convert("ffn: {method: m, experts: 4, top_k: 2}")),
              ElementsAre("a.yaml:7: stages.convert.convert.calibration.data: missing; router.init "
                          "'random_selection' needs calibration text: list JSONL files, or set router.init: kaiming",
                          "a.yaml:7: stages.convert.convert.calibration.data: missing; scale.mode "
                          "'least_squares' needs calibration text: list JSONL files, or set scale.mode: n_over_k"));
  EXPECT_THAT(
      problems_of(convert("ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: energy}")),
      IsEmpty());
}

const KnownNames& some_methods() {
  static const KnownNames names{{"methods", {"sequential", "weave", "merge"}},
                                {"methods_with_text", {"weave"}},
                                {"methods_with_router", {"weave", "merge"}},
                                {"methods_with_others", {"merge"}},
                                {"methods_with_prompts", {"merge"}}};
  return names;
}

// What the method makes itself is not asked for. The defaults are let through: an effective spec has them.
TEST(ValidateTest, HowARouterWouldBeMadeHasNoEffectWhereTheMethodMakesIt) {
  const auto problems = [](const std::string& router) {
    return problems_of(
        convert("ffn: {method: weave, experts: 4, top_k: 2}, calibration: {data: [{path: c}]}, router: " + router),
        "{}", some_methods());
  };
  EXPECT_THAT(problems("{init: kaiming, scaling: raw}"),
              ElementsAre("a.yaml:7: stages.convert.convert.router.init: has no effect (kaiming) with ffn.method "
                          "'weave', which makes its own router; remove it",
                          "a.yaml:7: stages.convert.convert.router.scaling: has no effect (raw) with ffn.method "
                          "'weave', which makes its own router; remove it"));
  EXPECT_THAT(problems("{options: {deviation: 1}}"),
              ElementsAre("a.yaml:7: stages.convert.convert.router.options: has no effect with ffn.method 'weave', "
                          "which makes its own router; remove it"));
  EXPECT_THAT(problems("{init: random_selection, scaling: calibrated, topk_norm: raw, noise: gumbel}"), IsEmpty());
  // Others bring a router whoever knows the methods.
  EXPECT_THAT(problems_of(convert("ffn: {method: merge, top_k: 1, others: [./m]}, scale: {mode: fixed, value: 1}, "
                                  "router: {init: zero}")),
              ElementsAre(HasSubstr("router.init: has no effect (zero) with ffn.method 'merge'")));
}

// A router of the method's own needs no text for router.init, and a method that reads text says so itself.
TEST(ValidateTest, WhoNeedsCalibrationTextIsNamed) {
  EXPECT_THAT(problems_of(convert("ffn: {method: merge, top_k: 1, others: [./m]}, scale: {mode: fixed, value: 1}"),
                          "{}", some_methods()),
              IsEmpty());
  EXPECT_THAT(problems_of(convert("ffn: {method: merge, top_k: 1, others: [./m]}, scale: {mode: fixed, value: 1}")),
              IsEmpty());
  EXPECT_THAT(problems_of(convert("ffn: {method: merge, top_k: 1, others: [./m]}"), "{}", some_methods()),
              ElementsAre(HasSubstr("calibration.data: missing; scale.mode 'least_squares' needs")));
  EXPECT_THAT(
      problems_of(convert("ffn: {method: weave, experts: 4, top_k: 2}"), "{}", some_methods()),
      ElementsAre("a.yaml:7: stages.convert.convert.calibration.data: missing; ffn.method 'weave' needs calibration "
                  "text: list JSONL files"));
  EXPECT_THAT(problems_of(convert("ffn: {method: sequential, experts: 4, top_k: 2}, scale: {mode: energy}"), "{}",
                          some_methods()),
              ElementsAre(HasSubstr("calibration.data: missing; router.init 'random_selection' needs")));
}

TEST(ValidateTest, ModelsAndPromptsOfAMerge) {
  const std::string ready = ", scale: {mode: fixed, value: 1}", at = "a.yaml:7: stages.convert.convert.";
  const auto problems = [&](const std::string& ffn) {
    return problems_of(convert("ffn: {" + ffn + "}" + ready), "{}", some_methods());
  };
  EXPECT_THAT(problems("method: merge, top_k: 1, others: [./m, dense], prompts: [{positive: [a]}, {positive: [b], "
                       "negative: [c]}, {positive: [d]}]"),
              IsEmpty());
  EXPECT_THAT(problems("method: merge, top_k: 4, others: [./m, dense]"),
              ElementsAre(at + "ffn.top_k: top_k 4 is greater than experts 3; choose at most as many experts as there "
                               "are"));
  EXPECT_THAT(problems("method: merge, experts: 4, top_k: 1, others: [./m, dense]"),
              ElementsAre(at + "ffn.experts: is 4, and the input and ffn.others are 3 models, each of which is one "
                               "expert; write 3 or leave it out"));
  EXPECT_THAT(
      problems_of(convert("ffn: {method: merge, top_k: 1, others: [./m]}, calibration: {data: [{path: c}]}, scale: "
                          "{mode: fixed, value: 1, alignment: variance}, reconstruction: {steps: 5}"),
                  "{}", some_methods()),
      ElementsAre(at + "scale.alignment: 'variance' scales every expert towards what the input's own FFNs give, and "
                       "experts of ffn.method 'merge' are FFNs of other models; remove it",
                  at + "reconstruction: trains every expert to give what the input's own FFNs give, and experts of "
                       "ffn.method 'merge' are FFNs of other models; remove it"));
  EXPECT_THAT(problems("method: merge, top_k: 1, others: [dense, nowhere]"),
              ElementsAre(HasSubstr(at + "ffn.others.1: no such model (nowhere)")));
  EXPECT_THAT(problems("method: merge, top_k: 1, others: [dense], prompts: [{positive: [a]}]"),
              ElementsAre(at + "ffn.prompts: has 1 entries for 2 experts; give one an expert, in their order"));
  EXPECT_THAT(problems("method: merge, top_k: 1, others: [dense], prompts: [{negative: [a]}, {positive: ['  ']}]"),
              ElementsAre(at + "ffn.prompts.0.positive: missing; list texts that the expert should be chosen for",
                          at + "ffn.prompts.1.positive.0: an empty text; give one or remove it"));
  EXPECT_THAT(problems_of(convert("ffn: {method: sequential, experts: 2, top_k: 1, others: [dense], prompts: "
                                  "[{positive: [a]}, {positive: [b]}]}, router: {init: kaiming}" +
                                  ready),
                          "{}", some_methods()),
              ElementsAre(at + "ffn.others: has no effect with ffn.method 'sequential', which takes from the input "
                               "alone; remove it, or set ffn.method: merge",
                          at + "ffn.prompts: has no effect with ffn.method 'sequential'; remove it"));
}

TEST(ValidateTest, AGateOfSharedExpertsHasSomethingToWeigh) {
  const auto problems_with = [](const std::string& fields) {
    return problems_of("  - {name: convert, convert: {input: dense, ffn: {method: residual, experts: 4, top_k: 2" +
                       fields +
                       "}, router: {init: kaiming}, scale: {mode: k}, calibration: {data: [{path: a.jsonl}]}}}\n");
  };
  const std::string at = "a.yaml:7: stages.convert.convert.ffn.shared_gate";
  EXPECT_THAT(problems_with(", shared_experts: 2, shared_gate: softmax"), IsEmpty());
  EXPECT_THAT(problems_with(", shared_experts: 2, shared_gate: sigmoid, shared_gate_scale: 1"), IsEmpty());
  EXPECT_THAT(problems_with(", shared_gate: sigmoid, options: {shared: adaptive}"), IsEmpty());
  EXPECT_THAT(problems_with(", shared_experts: 2, shared_gate: tanh"),
              ElementsAre(HasSubstr(at + ": unknown value (tanh)")));
  EXPECT_THAT(problems_with(", shared_experts: 1, shared_gate: softmax"),
              ElementsAre(HasSubstr(at + ": softmax weighs shared experts against each other")));
  EXPECT_THAT(problems_with(", shared_gate: sigmoid"),
              ElementsAre(HasSubstr(at + ": has no effect (sigmoid) with ffn.shared_experts 0")));
  EXPECT_THAT(problems_with(", shared_experts: 2, shared_gate_scale: 2"),
              ElementsAre(HasSubstr(at + "_scale: has no effect (2) with ffn.shared_gate 'none'")));
  EXPECT_THAT(problems_with(", shared_experts: 2, shared_gate: sigmoid, shared_gate_scale: 0"),
              ElementsAre(HasSubstr(at + "_scale: ")));
}

}  // namespace
}  // namespace moe
