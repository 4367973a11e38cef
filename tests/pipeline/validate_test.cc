// Stages and how they refer to each other, gangs, gates, and fields of the kinds that have few.
#include "pipeline/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/validated_stages.h"

namespace moe {
namespace {

using testing::convert;
using ::testing::ElementsAre;
using testing::gate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kConvert;
using testing::kEvaluate;
using testing::kTrain;
using testing::problems_of;
using testing::train;

TEST(ValidateTest, AGoodPipelineHasNoProblem) {
  EXPECT_THAT(problems_of(std::string(kConvert) + kTrain + kEvaluate +
                          gate("name: g1, metric: evaluate.loss_ratio_to_baseline.maths, op: '<=', value: 2") +
                          gate("name: g2, metric: stage1.dead_expert_fraction, op: '==', value: 0, on_fail: WARN")),
              IsEmpty());
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
  EXPECT_THAT(problems_of(kConvert, "{gang: {ranks: -1, expert_parallel: -2, device: gpu, dtype: float16}}"),
              ElementsAre("a.yaml:5: defaults.gang.ranks: must be at least 0 (-1)",
                          "a.yaml:5: defaults.gang.expert_parallel: must be at least 0 (-2)",
                          "a.yaml:5: defaults.gang.device: unknown value (gpu); did you mean 'cpu'? known: cpu, cuda",
                          "a.yaml:5: defaults.gang.dtype: unknown value (float16); did you mean 'bfloat16'? known: "
                          "float32, bfloat16, float64"));
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
    return testing::texts(load_pipeline("apiVersion: moe/v1\nname: a\n" + yaml, "a.yaml", {}, {}));
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
