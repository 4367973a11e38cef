#include "pipeline/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>

#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/problem_texts.h"
#include "testing/paths.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::texts;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;

TEST(SpecTest, AJobBecomesAPipelineOfOneStage) {
  const v1::PipelineSpec spec = load_pipeline_or_throw(R"(apiVersion: moe/v1
kind: Job
name: convert-it
inputs: {dense: {path: models/dense}}
defaults: {seed: 4}
gang: {ranks: 2}
seed: 5
convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: 2}, calibration: {data: [{path: a.jsonl}]}}
)",
                                                       "job.yaml", {"convert.ffn.top_k=3"}, {});
  ASSERT_EQ(spec.stages_size(), 1);
  EXPECT_EQ(stage_name(spec.stages(0)), "convert-it");
  EXPECT_EQ(spec.stages(0).seed(), 5u);
  EXPECT_EQ(spec.stages(0).gang().ranks(), 2);
  EXPECT_EQ(spec.stages(0).convert().ffn().top_k(), 3);
}

TEST(SpecTest, ProblemsOfAJobHaveItsOwnPaths) {
  EXPECT_THAT(
      texts(load_pipeline(
          "apiVersion: moe/v1\nkind: Job\nname: a\ngang: {ranks: 3, expert_parallel: 2}\ntrain:\n  input: ./m\n  "
          "data: [{path: x}]\n  steps: 0\n",
          "job.yaml", {}, {})),
      ElementsAre(
          "job.yaml:8: train.steps: must be at least 1 (0); it has no default",
          "job.yaml:4: gang.expert_parallel: expert_parallel 2 does not divide ranks 3 (stage 'a'); use 1 or 3"));
}

TEST(SpecTest, KeysOfAJobAreThoseOfItsStage) {
  const std::string job = "apiVersion: moe/v1\nkind: Job\nname: a\n";
  EXPECT_THAT(texts(load_pipeline(job + "evalute: {input: ./m}\nsed: 3\n", "a.yaml", {}, {})),
              ElementsAre("a.yaml:4: evalute: unknown key (evalute); did you mean 'evaluate'?",
                          "a.yaml:5: sed: unknown key (sed); did you mean 'seed'?",
                          HasSubstr("nothing to do; a Job needs one of convert, train, evaluate, export or analyze")));
  EXPECT_THAT(texts(load_pipeline(job + "gate: {name: g}\nexport: {input: ./m}\n", "a.yaml", {}, {})),
              ElementsAre("a.yaml:4: gate: unknown key (gate); did you mean 'name'?"));
  EXPECT_THAT(
      texts(load_pipeline(job + "export: {input: ./m}\nevaluate: {input: ./m, data: [{path: a}]}\nseed: 1\n"
                                "seed: -2\n",
                          "a.yaml", {"export.dtype=float16", "gang.ranks=-1"}, {})),
      UnorderedElementsAre("a.yaml:5: evaluate: 'evaluate' beside 'export' (a.yaml:4); only one of them may stand here",
                           "a.yaml:7: seed: duplicate key (seed); it is already set at a.yaml:6",
                           HasSubstr("--set export.dtype=float16: export.dtype: unknown value (float16)"),
                           "--set gang.ranks=-1: gang.ranks: must be at least 0 (-1)"));
}

TEST(SpecTest, EmptyFilesAndFilesOfOtherThings) {
  EXPECT_THAT(texts(load_pipeline("", "a.yaml", {}, {})),
              ElementsAre("a.yaml: the file is empty; it needs apiVersion, kind, name and stages"));
  EXPECT_THAT(texts(load_pipeline("# nothing\n", "a.yaml", {}, {})), ElementsAre(HasSubstr("the file is empty")));
  EXPECT_THAT(texts(load_pipeline("- a\n- b\n", "a.yaml", {}, {})),
              ElementsAre("a.yaml:1: expected a section of keys, found a list of 2"));
  EXPECT_THAT(
      texts(load_pipeline("a: 1\n", "a.yaml", {}, {})),
      ElementsAre(HasSubstr("a.yaml:1: a: unknown key (a)"), "a.yaml:1: api_version: missing; write apiVersion: moe/v1",
                  "a.yaml:1: name: missing; the pipeline needs a name",
                  "a.yaml:1: kind: missing; write kind: Pipeline or kind: Job"));
}

// Syntax, schema and meaning in one file: all of it is told at once, in the order of the lines.
TEST(SpecTest, EveryKindOfProblemAtOnce) {
  try {
    load_pipeline_or_throw(R"(apiVersion: moe/v2
kind: Pipeline
name: Bad_Name
inputs: {dense: {path: models/dense}, dense: {path: twice}}
defaults: {gang: {ranks: 3, expert_parallel: 2, devise: cpu}}
stages:
  - name: convert
    convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: 5}, scale: {mode: fixed}, router: {init: kaiming}}
  - name: stage1
    train: {input: convert.model, steps: soon, data: [{path: a.jsonl, weight: 0}]}
  - gate: {name: good, metric: stage1.perplexity, op: "<", value: 2}
)",
                           "configs/bad.yaml", {"stages.stage1.train.learning_rate=-1"}, {});
    FAIL() << "no exception";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(
        error.what(),
        "11 problems:\n"
        "configs/bad.yaml:1: api_version: unknown version (moe/v2); this program reads moe/v1\n"
        "configs/bad.yaml:3: name: not a name (Bad_Name); use lower-case letters, digits and '-', first a letter or "
        "digit, at most 63\n"
        "configs/bad.yaml:4: inputs.dense: duplicate key (dense); it is already set at configs/bad.yaml:4\n"
        "configs/bad.yaml:5: defaults.gang.devise: unknown key (devise); did you mean 'device'?\n"
        "configs/bad.yaml:5: defaults.gang.expert_parallel: expert_parallel 2 does not divide ranks 3; use 1 or 3\n"
        "configs/bad.yaml:8: stages.convert.convert.ffn.top_k: top_k 5 is greater than experts 4; choose at most as "
        "many experts as there are\n"
        "configs/bad.yaml:8: stages.convert.convert.scale.value: missing; scale.mode 'fixed' needs the scale of every "
        "layer\n"
        "configs/bad.yaml:10: stages.stage1.train.steps: expected a whole number, found 'soon'\n"
        "configs/bad.yaml:10: stages.stage1.train.data.0.weight: must be greater than 0 (0)\n"
        "configs/bad.yaml:11: stages.good.gate.metric: stage 'stage1' produces no metric 'perplexity' "
        "(stage1.perplexity); it produces: "
        "loss, loss_first, balance_loss, attention_balance_loss, dead_expert_fraction, load_max_over_mean, "
        "load_min_over_mean, attention_dead_expert_fraction, attention_load_max_over_mean, "
        "attention_load_min_over_mean, steps, tokens, tokens_per_second\n"
        "--set stages.stage1.train.learning_rate=-1: stages.stage1.train.learning_rate: must be greater than 0 (-1)");
  }
}

TEST(SpecTest, OneProblemHasNoHeading) {
  EXPECT_THAT([&] { load_pipeline_or_throw("apiVersion: moe/v1\nkind: Pipeline\nname: a\n", "a.yaml", {}, {}); },
              ThrowsMessage<InvalidArgument>("a.yaml:1: stages: missing; a Pipeline needs at least one stage"));
}

TEST(SpecTest, EveryShippedConfigLoads) {
  int loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(testing::source_dir() + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_THAT(texts(load_pipeline(read_file(entry.path()), entry.path().filename().string(), {}, {})), IsEmpty());
    ++loaded;
  }
  std::cout << "configs loaded: " << loaded << "\n";
  EXPECT_GT(loaded, 0);
}

// No cut of a file and no changed byte may do anything but load or give problems.
TEST(SpecTest, CutAndDamagedFilesNeverCrash) {
  const std::string text = read_file(testing::source_dir() + "/configs/base-7m_independent-random_cpu.yaml");
  int with_problems = 0, tried = 0;
  for (size_t length = 0; length < text.size(); length += 7, ++tried) {
    with_problems += load_pipeline(text.substr(0, length), "a.yaml", {}, {}).problems.empty() ? 0 : 1;
  }
  const std::string bytes = std::string("{}[]:,&*!|>'\"%@`#-\n\t \x80\xff", 23) + '\0';
  for (size_t at = 3; at < text.size(); at += 11, ++tried) {
    std::string damaged = text;
    damaged[at] = bytes[at % bytes.size()];
    with_problems += load_pipeline(damaged, "a.yaml", {}, {}).problems.empty() ? 0 : 1;
  }
  std::cout << with_problems << " of " << tried << " damaged files had problems\n";
  EXPECT_GT(with_problems, tried / 2);
}

}  // namespace
}  // namespace moe
