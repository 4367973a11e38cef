#include "pipeline/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kConvert[] =
    "  - {name: convert, convert: {input: dense, ffn: {method: sequential, experts: 8, top_k: 2}, calibration: {data: "
    "[{path: c.jsonl}]}}}\n";
constexpr char kTrain[] = "  - {name: stage1, train: {input: convert.model, steps: 10, data: [{path: a.jsonl}]}}\n";
constexpr char kEvaluate[] =
    "  - {name: evaluate, evaluate: {input: stage1.model, baseline: dense, data: [{path: maths.valid.jsonl}, {path: "
    "b/code.jsonl}]}}\n";

// Problems of a pipeline with these stages, which start at line 6 (line 5 holds the defaults).
std::vector<std::string> problems_of(const std::string& stages, const std::string& defaults = "{}",
                                     const KnownNames& known = {}) {
  const LoadedPipeline loaded =
      load_pipeline("apiVersion: moe/v1\nkind: Pipeline\nname: a\ninputs: {dense: {path: m}}\ndefaults: " + defaults +
                        "\nstages:\n" + stages,
                    "a.yaml", {}, known);
  std::vector<std::string> texts;
  for (const Problem& problem : loaded.problems) texts.push_back(problem.text());
  return texts;
}

std::string convert(const std::string& fields) {
  return "  - {name: convert, convert: {input: dense, " + fields + "}}\n";
}
std::string train(const std::string& fields) {
  return "  - {name: t, train: {input: ./m, " + fields + "}}\n";
}
std::string gate(const std::string& fields) {
  return "  - {gate: {" + fields + "}}\n";
}

TEST(ValidateTest, AGoodPipelineHasNoProblem) {
  EXPECT_THAT(problems_of(std::string(kConvert) + kTrain + kEvaluate +
                          gate("name: g1, metric: evaluate.loss_ratio_to_baseline.maths, op: '<=', value: 2") +
                          gate("name: g2, metric: stage1.dead_expert_fraction, op: '==', value: 0, on_fail: WARN")),
              IsEmpty());
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

TEST(ValidateTest, ARouterOfAttentionIsNotDistilled) {
  EXPECT_THAT(problems_of(convert("attention: {experts: 4, top_k: 2, router: {init: distilled}}, calibration: {data: "
                                  "[{path: b.jsonl}]}")),
              ElementsAre("a.yaml:7: stages.convert.convert.attention.router.init: is 'distilled', which learns from "
                          "experts of a feed-forward layer; use random_selection, hidden_clustering, pca, kaiming, "
                          "normal or zero"));
}

TEST(ValidateTest, NamesOfStages) {
  EXPECT_THAT(
      problems_of(
          "  - {convert: {input: dense, ffn: {method: m, experts: 2, top_k: 1}, calibration: {data: [{path: c}]}}}\n"
          "  - {name: Stage_1, train: {input: ./m, steps: 1, data: [{path: a}]}}\n" +
          std::string(kConvert) + kConvert + "  - {name: dense, evaluate: {input: ./m, data: [{path: a}]}}\n"),
      ElementsAre("a.yaml:7: stages.0.name: missing; every stage and gate needs a name",
                  HasSubstr("a.yaml:8: stages.Stage_1.name: not a name (Stage_1); use lower-case"),
                  "a.yaml:10: stages.3.name: duplicate name (convert); stage 2 (counted from 0) has it already",
                  "a.yaml:11: stages.dense.name: the name of a pipeline input too (dense); rename one of them"));
}

TEST(ValidateTest, AStageWithoutAKindAndGatesWithStageFields) {
  EXPECT_THAT(
      problems_of("  - {name: idle}\n  - {name: x, seed: 1, gate: {name: g, metric: idle.loss, op: '<', value: 1}}\n"),
      ElementsAre("a.yaml:7: stages.idle: nothing to do; add one of convert, train, evaluate, export, analyze or gate",
                  "a.yaml:8: stages.x.name: a gate's name stands inside `gate` (x); move it there",
                  "a.yaml:8: stages.x: a gate runs nothing; remove its gang and seed",
                  "a.yaml:8: stages.x.gate.metric: stage 'idle' produces no metric 'loss' (idle.loss)"));
}

TEST(ValidateTest, References) {
  const std::string rest = ", steps: 1, data: [{path: a}]}}\n";
  EXPECT_THAT(
      problems_of(
          "  - {name: early, train: {input: convert.model" + rest + kConvert +
          "  - {name: self, train: {input: self.model" + rest + "  - {name: typo, train: {input: convrt.model" + rest +
          "  - {name: bare, train: {input: convert" + rest + "  - {name: part, train: {input: convert.output" + rest +
          "  - {name: none, train: {steps: 1, data: [{path: a}]}}\n" +
          "  - {name: plain, evaluate: {input: densse, baseline: base-7m, data: [{path: a}]}}\n" +
          "  - {name: wrong, train: {input: plain.model" + rest + "  - {name: path, train: {input: ../models/x" + rest),
      ElementsAre(
          "a.yaml:7: stages.early.train.input: refers to a later stage (convert.model); move that stage before this "
          "one",
          "a.yaml:9: stages.self.train.input: refers to its own stage (self.model)",
          "a.yaml:10: stages.typo.train.input: no such model (convrt.model); did you mean 'convert.model'?; a "
          "directory is "
          "written with a slash (./convrt.model)",
          "a.yaml:11: stages.bare.train.input: a stage, not a model (convert); write convert.model",
          "a.yaml:12: stages.part.train.input: a stage offers only its model (convert.output); write convert.model",
          "a.yaml:13: stages.none.train.input: missing; name a model: a pipeline input, <stage>.model or a directory",
          "a.yaml:14: stages.plain.evaluate.input: no such model (densse); did you mean 'dense'?; a directory is "
          "written with "
          "a slash (./densse)",
          HasSubstr("a.yaml:14: stages.plain.evaluate.baseline: no such model (base-7m); known: dense, early.model, "
                    "convert.model"),
          "a.yaml:15: stages.wrong.train.input: stage 'plain' makes no model (plain.model); it is of kind evaluate, "
          "name a convert, train or export stage"));
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

// What is measured of a conversion is measured on its calibration text.
TEST(ValidateTest, GatesNameStepZeroOfAConversionThatHasText) {
  const std::string step0 = gate("name: g, metric: convert.step0_loss, op: '<', value: 9"),
                    peak = gate("name: p, metric: convert.peak_memory_bytes, op: '<', value: 1.0e9");
  EXPECT_THAT(problems_of(kConvert + step0 + peak), IsEmpty());
  EXPECT_THAT(
      problems_of(convert("ffn: {method: m, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: energy}") +
                  step0 + peak),
      ElementsAre(HasSubstr("a.yaml:8: stages.g.gate.metric: stage 'convert' produces no metric 'step0_loss'")));
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

TEST(ValidateTest, FieldsOfTrain) {
  EXPECT_THAT(problems_of(train("steps: 0")),
              ElementsAre("a.yaml:7: stages.t.train.data: missing; list at least one JSONL file: [{path: FILE.jsonl}]",
                          "a.yaml:7: stages.t.train.steps: must be at least 1 (0); it has no default"));
  EXPECT_THAT(
      problems_of(train(
          "steps: 10, data: [{weight: -1, max_documents: -2, special_tokens: keep, domain: ''}], sequence_length: 1, "
          "micro_batch_rows: 0, "
          "micro_steps: 0, learning_rate: 0, learning_rate_floor: 2, warmup_steps: 11, beta1: 1, beta2: -0.1, epsilon: "
          "0, "
          "weight_decay: -1, clip_norm: -1, balance_loss: -1, attention_balance_loss: -1, balance: biased, "
          "balance_scope: token, "
          "selection_bias_rate: 0, z_loss: -1, "
          "frozen_router_steps: 11, validate_every: -1, validation_tokens: 0, "
          "checkpoint_every: -1, keep_checkpoints: 0, long_documents: cut")),
      ElementsAre("a.yaml:7: stages.t.train.data.0.path: missing; name a JSONL file",
                  "a.yaml:7: stages.t.train.data.0.weight: must be greater than 0 (-1)",
                  "a.yaml:7: stages.t.train.data.0.max_documents: must be at least 0 (-2)",
                  "a.yaml:7: stages.t.train.data.0.special_tokens: unknown value (keep); known: text, parse",
                  "a.yaml:7: stages.t.train.data.0.domain: is empty; write a name or remove it",
                  "a.yaml:7: stages.t.train.sequence_length: must be at least 2 (1)",
                  "a.yaml:7: stages.t.train.micro_batch_rows: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.micro_steps: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.learning_rate: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.learning_rate_floor: must lie in 0 .. 1 (2)",
                  "a.yaml:7: stages.t.train.warmup_steps: warmup_steps 11 is greater than steps 10",
                  "a.yaml:7: stages.t.train.beta1: must be at least 0 and less than 1 (1)",
                  "a.yaml:7: stages.t.train.beta2: must be at least 0 and less than 1 (-0.1)",
                  "a.yaml:7: stages.t.train.epsilon: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.weight_decay: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.clip_norm: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.balance_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.attention_balance_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.balance: unknown value (biased); known: auxiliary, importance_load, "
                  "selection_bias, quantile, constant, none",
                  "a.yaml:7: stages.t.train.balance_scope: unknown value (token); known: micro_batch, sequence, "
                  "global_batch",
                  "a.yaml:7: stages.t.train.selection_bias_rate: must be greater than 0 (0)",
                  "a.yaml:7: stages.t.train.z_loss: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.frozen_router_steps: frozen_router_steps 11 is greater than steps 10",
                  "a.yaml:7: stages.t.train.validate_every: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.validation_tokens: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.checkpoint_every: must be at least 0 (-1)",
                  "a.yaml:7: stages.t.train.keep_checkpoints: must be at least 1 (0)",
                  "a.yaml:7: stages.t.train.long_documents: unknown value (cut); known: drop, truncate, split"));
}

TEST(ValidateTest, LoadEstimatorsAreOfTheImportanceLoad) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ", at = "a.yaml:7: stages.t.train.";
  EXPECT_THAT(problems_of(train(data + "balance: importance_load, balance_loss: 0.1, load_estimator: reference_v1")),
              IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance: constant, balance_loss: 0.1")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance: importance_load, load_estimator: v1, balance_scope: sequence")),
              ElementsAre(at + "load_estimator: unknown value (v1); known: exact, reference_v1",
                          at + "balance_scope: has no effect (sequence) with balance 'importance_load'; set balance: "
                               "auxiliary or remove it"));
  EXPECT_THAT(problems_of(train(data + "load_estimator: reference_v1")),
              ElementsAre(at + "load_estimator: has no effect (reference_v1) with balance 'auxiliary'; set balance: "
                               "importance_load or remove it"));
}

TEST(ValidateTest, WhatAnotherBalanceWouldIgnoreIsNamed) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ";
  EXPECT_THAT(problems_of(train(data + "balance: quantile, balance_loss: 0.1, balance_scope: sequence, "
                                       "selection_bias_rate: 0.01")),
              ElementsAre("a.yaml:7: stages.t.train.balance_loss: has no effect (0.1) with balance 'quantile'; set "
                          "balance: auxiliary or remove it",
                          "a.yaml:7: stages.t.train.balance_scope: has no effect (sequence) with balance 'quantile'; "
                          "set balance: auxiliary or remove it",
                          "a.yaml:7: stages.t.train.selection_bias_rate: has no effect (0.01) with balance 'quantile'; "
                          "set balance: selection_bias or remove it"));
  EXPECT_THAT(problems_of(train(data + "selection_bias_rate: 0.01")), ElementsAre(HasSubstr("balance 'auxiliary'")));
  // The defaults stand in every effective spec, which is checked again.
  for (const char* const fine :
       {"balance: none, balance_loss: 0", "balance: selection_bias, selection_bias_rate: 0.01",
        "balance: quantile, balance_loss: 0.01, balance_scope: micro_batch",
        "balance: auxiliary, balance_scope: global_batch, z_loss: 0.001, frozen_router_steps: 10"})
    EXPECT_THAT(problems_of(train(data + fine)), IsEmpty()) << fine;
}

TEST(ValidateTest, WhoChoosesExperts) {
  const std::string data = "data: [{path: a.jsonl}], ";
  const auto evaluate = [&](const std::string& fields) {
    return problems_of("  - {name: e, evaluate: {input: ./m, " + data + fields + "}}\n");
  };
  EXPECT_THAT(evaluate("top_k: 1, routing: random"), IsEmpty());
  EXPECT_THAT(evaluate("routing: first"), IsEmpty());
  EXPECT_THAT(evaluate("top_k: 0, routing: last"),
              ElementsAre("a.yaml:7: stages.e.evaluate.top_k: must be at least 1 (0)",
                          "a.yaml:7: stages.e.evaluate.routing: unknown value (last); known: router, random, first"));
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random")), IsEmpty());
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random, balance: none, z_loss: 0.1")), IsEmpty());
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: first")),
              ElementsAre("a.yaml:7: stages.t.train.routing: unknown value (first); known: router, random"));
  EXPECT_THAT(problems_of(train("steps: 10, " + data + "routing: random, balance: auxiliary")),
              ElementsAre("a.yaml:7: stages.t.train.balance: has no effect (auxiliary) with routing 'random', which is "
                          "even as it is; set balance: none or remove it"));
}

TEST(ValidateTest, CapacityAndLayersOfABalance) {
  const std::string data = "steps: 10, data: [{path: a.jsonl}], ", at = "a.yaml:7: stages.t.train.";
  EXPECT_THAT(problems_of(train(data + "capacity_factor: 1.25, dropped_tokens: input")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "capacity_factor: 0, dropped_tokens: zero")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "balance_layers: concatenated, balance_scope: sequence")), IsEmpty());
  EXPECT_THAT(problems_of(train(data + "capacity_factor: -1, dropped_tokens: skip, balance_layers: both")),
              ElementsAre(at + "balance_layers: unknown value (both); known: per_layer, concatenated",
                          at + "capacity_factor: must be at least 0 (-1)",
                          at + "dropped_tokens: unknown value (skip); known: zero, input"));
  EXPECT_THAT(problems_of(train(data + "dropped_tokens: input")),
              ElementsAre(at + "dropped_tokens: has no effect (input) without capacity_factor: experts take every "
                               "token; set capacity_factor, for example 1.25, or remove it"));
  EXPECT_THAT(problems_of(train(data + "balance: quantile, balance_layers: concatenated")),
              ElementsAre(at + "balance_layers: has no effect (concatenated) with balance 'quantile'; set balance: "
                               "auxiliary or remove it"));
}

TEST(ValidateTest, FieldsOfEvaluateAndDomains) {
  EXPECT_THAT(
      problems_of(
          "  - {name: e, evaluate: {input: ./m, max_tokens: -1, sequence_length: 0}}\n"
          "  - {name: f, evaluate: {input: ./m, data: [{path: a/x.1.jsonl}, {path: b/x.2.jsonl}]}}\n"
          "  - {name: g, evaluate: {input: ./m, data: [{path: a/x.1.jsonl}, {path: b/x.2.jsonl, domain: y}]}}\n"),
      ElementsAre("a.yaml:7: stages.e.evaluate.data: missing; list at least one JSONL file: [{path: FILE.jsonl}]",
                  "a.yaml:7: stages.e.evaluate.sequence_length: must be at least 2 (0)",
                  "a.yaml:7: stages.e.evaluate.max_tokens: must be at least 0 (-1)",
                  "a.yaml:8: stages.f.evaluate.data.1: its domain 'x' is also that of stages.f.evaluate.data.0; losses "
                  "are reported by "
                  "domain, so set `domain` on one of them"));
}

TEST(ValidateTest, NamesThatOtherModulesKnow) {
  const KnownNames known{{"methods", {"independent_random", "sequential"}},
                         {"router_inits", {"kaiming", "random_selection"}},
                         {"templates", {"plain_markers"}},
                         {"tasks", {"perplexity"}},
                         {"export_formats", {"auto", "mixtral"}}};
  EXPECT_THAT(
      problems_of(convert("ffn: {method: sequentiel, experts: 4, top_k: 2}, router: {init: zeros}, scale: {mode: k}") +
                      train("steps: 1, data: [{path: a}], template: chatml") +
                      "  - {name: e, evaluate: {input: ./m, data: [{path: a}], tasks: [perplexity, mmlu], template: "
                      "plain_marker}}\n"
                      "  - {name: x, export: {input: ./m, format: mixtrel}}\n",
                  "{}", known),
      ElementsAre(
          "a.yaml:7: stages.convert.convert.ffn.method: unknown value (sequentiel); did you mean 'sequential'? known: "
          "independent_random, sequential",
          "a.yaml:7: stages.convert.convert.router.init: unknown value (zeros); known: kaiming, random_selection",
          "a.yaml:8: stages.t.train.template: unknown value (chatml); known: plain_markers",
          "a.yaml:9: stages.e.evaluate.tasks.1: unknown value (mmlu); known: perplexity",
          "a.yaml:9: stages.e.evaluate.template: unknown value (plain_marker); did you mean 'plain_markers'? known: "
          "plain_markers",
          "a.yaml:10: stages.x.export.format: unknown value (mixtrel); did you mean 'mixtral'? known: auto, mixtral"));
  EXPECT_THAT(
      problems_of(convert("ffn: {method: anything, experts: 4, top_k: 2}, router: {init: any}, scale: {mode: k}")),
      IsEmpty());
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

TEST(ValidateTest, AnExportIsAModelForLaterStagesAndItsFieldsAreChecked) {
  EXPECT_THAT(problems_of(std::string(kConvert) +
                          "  - {name: x, export: {input: convert.model, dtype: float32}}\n"
                          "  - {name: e, evaluate: {input: x.model, data: [{path: a}]}}\n"
                          "  - {gate: {name: small, metric: x.padded_size_ratio, op: '<', value: 2}}\n"),
              IsEmpty());
  EXPECT_THAT(problems_of("  - {name: x, export: {dtype: float16, max_shard_bytes: 0, pad_experts_to: -1}}\n"),
              ElementsAre(HasSubstr("a.yaml:7: stages.x.export.input: missing; name a model"),
                          HasSubstr("stages.x.export.dtype: unknown value (float16)"),
                          "a.yaml:7: stages.x.export.max_shard_bytes: must be at least 1 (0)",
                          "a.yaml:7: stages.x.export.pad_experts_to: must be at least 0 (-1)"));
}

TEST(ValidateTest, LayoutsThatDoNotDivide) {
  EXPECT_THAT(
      problems_of(std::string(kConvert) +
                      "  - {name: t, gang: {ranks: 6, expert_parallel: 4}, train: {input: convert.model, steps: 1, "
                      "data: [{path: a}]}}\n",
                  "{gang: {ranks: 3, expert_parallel: 3}}"),
      ElementsAre("a.yaml:5: defaults.gang.expert_parallel: expert_parallel 3 does not divide experts 8; use 1",
                  "a.yaml:8: stages.t.gang.expert_parallel: expert_parallel 4 does not divide ranks 6 (stage 't'); use "
                  "1, 2, 3 or 6"));
  // Those of each part.
  EXPECT_THAT(
      problems_of(convert("ffn: {method: sequential, experts: 7, top_k: 2}, router: {init: kaiming}, scale: "
                          "{mode: k}, attention: {experts: 8, top_k: 2, router: {init: kaiming}, scale: {mode: "
                          "k}}"),
                  "{gang: {expert_parallel: 2}}"),
      ElementsAre("a.yaml:5: defaults.gang.expert_parallel: expert_parallel 2 does not divide experts 7; use 1"));
  // Ranks that nobody gave are whatever mpirun starts.
  EXPECT_THAT(problems_of(kConvert, "{gang: {expert_parallel: 4}}"), IsEmpty());
}

TEST(ValidateTest, FieldsOfTheGang) {
  EXPECT_THAT(
      problems_of(kConvert, "{gang: {ranks: -1, expert_parallel: -2, device: gpu, dtype: float16}}"),
      ElementsAre(
          "a.yaml:5: defaults.gang.ranks: must be at least 0 (-1)",
          "a.yaml:5: defaults.gang.expert_parallel: must be at least 0 (-2)",
          "a.yaml:5: defaults.gang.device: unknown value (gpu); did you mean 'cpu'? known: cpu, cuda",
          "a.yaml:5: defaults.gang.dtype: unknown value (float16); did you mean 'float32'? known: float32, float64"));
}

TEST(ValidateTest, Gates) {
  const std::string op = ", op: '<', value: 1";
  EXPECT_THAT(
      problems_of(gate("name: early, metric: evaluate.loss" + op) + kConvert + kTrain + kEvaluate +
                  gate("name: no-op, metric: evaluate.loss, value: 1") +
                  gate("name: odd, metric: evaluate.loss, op: '=<', value: 1, on_fail: STOP") +
                  gate("name: none" + op) + gate("name: dotless, metric: loss" + op) +
                  gate("name: where, metric: evalute.loss" + op) +
                  gate("name: domain, metric: evaluate.loss.maths.hard" + op) +
                  gate("name: base, metric: stage1.loss_ratio_to_baseline" + op) +
                  gate("name: on-gate, metric: odd.loss" + op)),
      ElementsAre(
          "a.yaml:7: stages.early.gate.metric: stage 'evaluate' comes after this gate (evaluate.loss); move the gate "
          "behind it",
          "a.yaml:11: stages.no-op.gate.op: missing; one of <, <=, >, >=, == in quotes",
          HasSubstr("a.yaml:12: stages.odd.gate.op: unknown value (=<)"),
          "a.yaml:12: stages.odd.gate.on_fail: unknown value (STOP); known: HOLD, FAIL, WARN",
          "a.yaml:13: stages.none.gate.metric: missing; write <stage>.<metric>, for example evaluate.loss",
          "a.yaml:14: stages.dotless.gate.metric: names no stage (loss); write <stage>.<metric>",
          "a.yaml:15: stages.where.gate.metric: no stage 'evalute' (evalute.loss); did you mean 'evaluate'?",
          HasSubstr("a.yaml:16: stages.domain.gate.metric: stage 'evaluate' produces no metric 'loss.maths.hard' "
                    "(evaluate.loss.maths.hard); did you mean 'loss.maths'?; it produces: loss, perplexity"),
          HasSubstr("stages.base.gate.metric: stage 'stage1' produces no metric 'loss_ratio_to_baseline' "
                    "(stage1.loss_ratio_to_baseline); the stage has no `baseline`"),
          "a.yaml:18: stages.on-gate.gate.metric: stage 'odd' produces no metric 'loss' (odd.loss)"));
}

TEST(ValidateTest, ValidationMetricsNeedValidationFiles) {
  const std::string with =
      "  - {name: t, train: {input: ./m, steps: 1, data: [{path: a}], validation: [{path: books.valid.jsonl}]}}\n";
  EXPECT_THAT(problems_of(with + gate("name: g, metric: t.validation_loss.books, op: '<', value: 1")), IsEmpty());
  EXPECT_THAT(
      problems_of(train("steps: 1, data: [{path: a}]") + gate("name: g, metric: t.validation_loss, op: '<', value: 1")),
      ElementsAre(HasSubstr("stage 't' produces no metric 'validation_loss' (t.validation_loss)")));
}

TEST(ValidateTest, TopLevelFieldsOfTheOtherKind) {
  const auto texts = [](const std::string& yaml) {
    std::vector<std::string> all;
    for (const Problem& problem : load_pipeline("apiVersion: moe/v1\nname: a\n" + yaml, "a.yaml", {}, {}).problems)
      all.push_back(problem.text());
    return all;
  };
  EXPECT_THAT(texts("kind: Pipeline\nseed: 1\ngang: {ranks: 1}\ntrain: {input: ./m}\n"),
              ElementsAre("a.yaml:1: stages: missing; a Pipeline needs at least one stage",
                          "a.yaml:6: train: a Pipeline has its jobs under stages; move it there, or write kind: Job",
                          "a.yaml:4: seed: a Pipeline sets the seed in defaults or in a stage; move it",
                          "a.yaml:5: gang: a Pipeline sets the gang in defaults or in a stage; move it"));
  EXPECT_THAT(texts("kind: Job\n"),
              ElementsAre("a.yaml:1: nothing to do; a Job needs one of convert, train, evaluate, export or analyze"));
  EXPECT_THAT(
      texts("kind: Job\nevaluate: {input: ./m, data: [{path: a}]}\nstages: [{name: x, train: {input: ./m, steps: 1, "
            "data: [{path: a}]}}]\n"),
      ElementsAre("a.yaml:5: stages: a Job has no stages; write kind: Pipeline or put the job at the top level"));
  EXPECT_THAT(texts("kind: Pipelin\nstages: [{name: x, train: {input: ./m, steps: 1, data: [{path: a}]}}]\n"),
              ElementsAre("a.yaml:3: kind: unknown value (Pipelin); did you mean 'Pipeline'? known: Pipeline, Job"));
  EXPECT_THAT(texts("kind: Job\ninputs: {Bad: {}}\nevaluate: {input: Bad, data: [{path: a}]}\n"),
              ElementsAre(HasSubstr("a.yaml:4: inputs.Bad: not a name (Bad)"),
                          "a.yaml:4: inputs.Bad.path: missing; name a model directory"));
}

}  // namespace
}  // namespace moe
