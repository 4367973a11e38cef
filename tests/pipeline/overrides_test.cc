#include "pipeline/overrides.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/problem_texts.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::texts;

constexpr char kPipeline[] = R"(apiVersion: moe/v1
kind: Pipeline
name: a
inputs: {dense: {path: models/dense}}
stages:
  - {name: stage1, train: {input: dense, data: [{path: a.jsonl}, {path: b.jsonl, weight: 2}], steps: 10}}
  - {name: evaluate, evaluate: {input: stage1.model, data: [{path: v.jsonl}]}}
  - gate: {name: good, metric: evaluate.loss, op: "<=", value: 3}
)";

LoadedPipeline load(const std::vector<std::string>& assignments) {
  return load_pipeline(kPipeline, "a.yaml", assignments, {});
}

TEST(OverridesTest, ByNameByIndexInGatesInMapsAndAsLists) {
  const LoadedPipeline loaded = load(
      {"stages.stage1.train.steps=77", "stages.stage1.train.data.1.weight=0.5", "stages.0.train.learning_rate=1e-3",
       "stages.good.gate.value=2.5", "inputs.dense.path=other/model", "inputs.second.path=third/model",
       "stages.evaluate.evaluate.tasks=[perplexity, other]", "defaults.gang.ranks=4", "name=b=c"});
  ASSERT_THAT(texts(loaded), ElementsAre(HasSubstr("--set name=b=c: name: not a name (b=c)")));
  const v1::PipelineSpec& spec = loaded.spec;
  EXPECT_EQ(spec.stages(0).train().steps(), 77);
  EXPECT_EQ(spec.stages(0).train().data(1).weight(), 0.5);
  EXPECT_EQ(spec.stages(0).train().learning_rate(), 1e-3);
  EXPECT_EQ(spec.stages(2).gate().value(), 2.5);
  EXPECT_EQ(spec.inputs().at("dense").path(), "other/model");
  EXPECT_EQ(spec.inputs().at("second").path(), "third/model");
  EXPECT_THAT(spec.stages(1).evaluate().tasks(), ElementsAre("perplexity", "other"));
  EXPECT_EQ(spec.defaults().gang().ranks(), 4);
}

TEST(OverridesTest, TheLastFlagWins) {
  EXPECT_EQ(load({"stages.stage1.train.steps=1", "stages.stage1.train.steps=2"}).spec.stages(0).train().steps(), 2);
}

TEST(OverridesTest, ProblemsNameTheFlag) {
  EXPECT_THAT(
      texts(load({"nonsense", "=1", "a..b=1", "stages.stage2.train.steps=1", "name.first=1",
                  "stages.stage1.train.step=5", "stages.stage1.train.steps=soon",
                  "stages.good.gate.op=[<=", "stages.evaluate.evaluate.baseline=&x dense"})),
      ElementsAre(
          "--set nonsense: expected path=value, for example --set stages.stage1.train.steps=100",
          "--set =1: expected path=value, for example --set stages.stage1.train.steps=100",
          "--set a..b=1: a..b: a part of the path is empty; write names joined by single dots",
          "--set stages.stage2.train.steps=1: stages: no item 'stage2' in this list; it has: stage1, evaluate, good",
          "--set name.first=1: name: 'first' cannot be set inside the value 'a' (a.yaml:3)",
          HasSubstr("--set stages.good.gate.op=[<=: not valid YAML"),
          HasSubstr("--set stages.evaluate.evaluate.baseline=&x dense: an anchor (&name)"),
          "--set stages.stage1.train.steps=soon: stages.stage1.train.steps: expected a whole number, found 'soon'",
          "--set stages.stage1.train.step=5: stages.stage1.train.step: unknown key (step); did you mean 'steps'?"));
}

TEST(OverridesTest, AnEmptyValueIsNoValue) {
  EXPECT_THAT(texts(load({"stages.stage1.train.steps="})),
              ElementsAre("--set stages.stage1.train.steps=: stages.stage1.train.steps: no value; write a whole number "
                          "or remove the key"));
}

}  // namespace
}  // namespace moe
