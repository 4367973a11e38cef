#include "pipeline/for_each.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pipeline/problem_texts.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::texts;

constexpr char kHead[] = "apiVersion: moe/v1\nkind: Pipeline\nname: compare\ninputs: {dense: {path: m}}\nstages:\n";

constexpr char kGroup[] = R"(  - for_each:
      variants:
        - {name: random, convert: {ffn: {method: independent_random, experts: 8, top_k: 4}}}
        - {name: residual, convert: {ffn: {method: residual, experts: 7, shared_experts: 1, top_k: 3}, preset: published}, train: {steps: 9}}
      stages:
        - {name: convert, convert: {input: dense, ffn: {experts: 2}, calibration: {data: [{path: convert.model}]}}}
        - {name: train, gang: {ranks: 2}, train: {input: convert.model, steps: 5, data: [{path: a.jsonl}]}}
        - {name: look, evaluate: {input: train.model, baseline: dense, data: [{path: b.jsonl}]}}
        - gate: {name: good, metric: look.loss, op: "<", value: 3}
)";

LoadedPipeline load(const std::string& stages, const std::vector<std::string>& assignments = {}) {
  return load_pipeline(kHead + stages, "a.yaml", assignments, {});
}

std::vector<std::string> names(const v1::PipelineSpec& spec) {
  std::vector<std::string> all;
  for (const v1::Stage& stage : spec.stages()) all.push_back(stage_name(stage));
  return all;
}

TEST(ForEachTest, WritesOutEveryStageForEveryVariant) {
  const LoadedPipeline loaded = load(kGroup, {"stages.residual-train.train.learning_rate=0.5"});
  ASSERT_THAT(texts(loaded), ElementsAre());
  const v1::PipelineSpec& spec = loaded.spec;
  EXPECT_THAT(names(spec), ElementsAre("random-convert", "random-train", "random-look", "random-good",
                                       "residual-convert", "residual-train", "residual-look", "residual-good"));
  EXPECT_EQ(spec.stages(0).convert().ffn().method(), "independent_random");
  EXPECT_EQ(spec.stages(0).convert().ffn().experts(), 8) << "laid over what the stage says";
  EXPECT_EQ(spec.stages(0).convert().input(), "dense") << "no stage of the group";
  EXPECT_EQ(spec.stages(0).convert().calibration().data(0).path(), "convert.model") << "a file";
  EXPECT_EQ(spec.stages(1).train().input(), "random-convert.model");
  EXPECT_EQ(spec.stages(1).train().steps(), 5);
  EXPECT_EQ(spec.stages(1).gang().ranks(), 2);
  EXPECT_FALSE(spec.stages(1).has_seed());
  EXPECT_EQ(spec.stages(2).evaluate().baseline(), "dense");
  EXPECT_EQ(spec.stages(3).gate().metric(), "random-look.loss");
  EXPECT_EQ(spec.stages(4).convert().ffn().shared_experts(), 1);
  EXPECT_EQ(spec.stages(4).convert().preset(), "published");
  EXPECT_EQ(spec.stages(5).train().steps(), 9);
  EXPECT_EQ(spec.stages(5).train().learning_rate(), 0.5) << "--set names what was written out";
  EXPECT_EQ(spec.stages(6).evaluate().input(), "residual-train.model");
}

TEST(ForEachTest, SeedsMultiplyTheVariants) {
  const LoadedPipeline loaded = load(
      R"(  - {name: before, convert: {input: dense, ffn: {method: m, experts: 2, top_k: 1}, router: {init: kaiming}, scale: {mode: k}}}
  - for_each:
      variants: [{name: a}, {name: b}]
      seeds: [1, 20]
      stages:
        - {name: t, train: {input: before.model, steps: 5, data: [{path: a.jsonl}]}}
  - {name: after, evaluate: {input: b-s20-t.model, data: [{path: b.jsonl}]}}
)");
  ASSERT_THAT(texts(loaded), ElementsAre());
  EXPECT_THAT(names(loaded.spec), ElementsAre("before", "a-s1-t", "a-s20-t", "b-s1-t", "b-s20-t", "after"));
  EXPECT_EQ(loaded.spec.stages(1).seed(), 1u);
  EXPECT_EQ(loaded.spec.stages(2).seed(), 20u);
  EXPECT_EQ(loaded.spec.stages(2).train().input(), "before.model");
}

TEST(ForEachTest, ProblemsOfStagesNameWhatWasWrittenOutAndTheLine) {
  std::string text = kGroup;
  text.replace(text.find("steps: 9"), 8, "stepz: 9");
  EXPECT_THAT(texts(load(text)),
              ElementsAre("a.yaml:9: stages.residual-train.train.stepz: unknown key (stepz); did you "
                          "mean 'steps'?"));
}

TEST(ForEachTest, WhatCannotBeWrittenOut) {
  EXPECT_THAT(
      texts(load("  - for_each: 3\n")),
      ::testing::Contains("a.yaml:6: stages.0.for_each: expected a section with variants and stages, found '3'"));
  EXPECT_THAT(texts(load("  - {name: x, for_each: {}}\n")),
              ::testing::Contains(HasSubstr("stages.0.for_each: keys beside it")));
  const std::vector<std::string> all = texts(load(R"(  - for_each:
      variant: []
      seeds: 4
      stages: []
)"));
  EXPECT_THAT(all,
              ::testing::IsSupersetOf(
                  {"a.yaml:7: stages.0.for_each.variant: unknown key (variant); did you mean 'variants'?",
                   "a.yaml:7: stages.0.for_each.variants: missing; list what differs, [{name: NAME, STAGE: {...}}]",
                   "a.yaml:8: stages.0.for_each.seeds: expected a list, found '4'; list numbers, [1, 2, 3]",
                   "a.yaml:9: stages.0.for_each.stages: expected a list, found a list of 0; list what is run for "
                   "each variant"}));
  const std::vector<std::string> names = texts(load(R"(  - for_each:
      variants:
        - {name: a, trian: {steps: 3}}
        - {name: a, train: 3}
        - {steps: 3}
      seeds: [[1]]
      stages:
        - {train: {input: dense, steps: 5, data: [{path: a.jsonl}]}}
        - {name: train, seed: 7, train: {input: dense, steps: 5, data: [{path: a.jsonl}]}}
        - for_each: {}
        - {name: name, evaluate: {input: dense}}
)"));
  EXPECT_THAT(names,
              ::testing::IsSupersetOf(
                  {"a.yaml:8: stages.0.for_each.variants.a.trian: no stage of the group (trian); did you mean 'train'?",
                   "a.yaml:9: stages.0.for_each.variants: a second variant of this name (a)",
                   "a.yaml:10: stages.0.for_each.variants: a variant without a name; write {name: NAME, STAGE: {...}}",
                   "a.yaml:11: stages.0.for_each.seeds: expected a number, found a list of 1",
                   "a.yaml:13: stages.0.for_each.stages: a stage without a name; it is needed to tell the variants' "
                   "stages apart",
                   "a.yaml:9: stages.0.for_each.variants.a.train: expected a section of the job's keys, found '3'",
                   "a.yaml:14: stages.0.for_each.stages: a seed (7) beside the group's seeds; remove one of them",
                   "a.yaml:16: stages.0.for_each.stages: a stage called 'name', which is a variant's own key; call it "
                   "otherwise",
                   "a.yaml:15: stages.0.for_each.stages: a for_each inside a for_each; write one list of variants"}));
}

}  // namespace
}  // namespace moe
