#include "pipeline/paths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pipeline/spec.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

std::vector<std::string> visited(v1::PipelineSpec spec) {
  std::vector<std::string> paths;
  visit_paths(spec, [&](std::string& path) { paths.push_back(path); });
  return paths;
}

constexpr char kPipeline[] = R"(apiVersion: moe/v1
kind: Pipeline
name: a
inputs: {dense: {path: models/dense}, other: {path: /models/other}}
stages:
  - name: convert
    convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: 2}, calibration: {data: [{path: c.jsonl}, {path: d.jsonl}]}}
  - name: stage1
    train: {input: convert.model, steps: 1, data: [{path: t.jsonl, weight: 2}], validation: [{path: v.jsonl}]}
  - name: evaluate
    evaluate: {input: ./models/ready, baseline: other, data: [{path: e.jsonl}]}
  - name: again
    evaluate: {input: stage1.model, baseline: .., data: [{path: f.jsonl}]}
  - name: merge
    convert: {input: dense, ffn: {method: merge, experts: 4, top_k: 2, others: [other, ./models/third, stage1.model]},
              calibration: {data: [{path: g.jsonl}]}}
  - gate: {name: good, metric: evaluate.loss, op: "<", value: 2}
  - name: export
    export: {input: ./models/trained}
)";

TEST(PathsTest, EveryPathAndNoNameIsVisited) {
  const LoadedPipeline loaded = load_pipeline(kPipeline, "a.yaml", {}, {});
  ASSERT_EQ(to_text(loaded.problems), "");
  EXPECT_THAT(visited(loaded.spec), UnorderedElementsAre("models/dense", "/models/other", "c.jsonl", "d.jsonl",
                                                         "t.jsonl", "v.jsonl", "./models/ready", "e.jsonl", "..",
                                                         "f.jsonl", "./models/third", "g.jsonl", "./models/trained"));
}

TEST(PathsTest, WhatVisitWritesIsKept) {
  v1::PipelineSpec spec = load_pipeline(kPipeline, "a.yaml", {}, {}).spec;
  visit_paths(spec, [](std::string& path) { path = "/root/" + path; });
  EXPECT_EQ(spec.inputs().at("dense").path(), "/root/models/dense");
  EXPECT_EQ(spec.stages(0).convert().input(), "dense");
  EXPECT_EQ(spec.stages(0).convert().calibration().data(1).path(), "/root/d.jsonl");
  EXPECT_EQ(spec.stages(1).train().input(), "convert.model");
  EXPECT_EQ(spec.stages(1).train().data(0).path(), "/root/t.jsonl");
  EXPECT_EQ(spec.stages(1).train().data(0).weight(), 2);
  EXPECT_EQ(spec.stages(2).evaluate().input(), "/root/./models/ready");
  EXPECT_EQ(spec.stages(2).evaluate().baseline(), "other");
  EXPECT_THAT(spec.stages(4).convert().ffn().others(), ElementsAre("other", "/root/./models/third", "stage1.model"));
}

TEST(PathsTest, AJobAndMissingPaths) {
  v1::PipelineSpec spec =
      load_pipeline("kind: Job\nevaluate: {input: models/m, data: [{path: d.jsonl}, {}]}\n", "a.yaml", {}, {}).spec;
  (*spec.mutable_inputs())["empty"];
  EXPECT_THAT(visited(spec), UnorderedElementsAre("models/m", "d.jsonl"));
}

}  // namespace
}  // namespace moe
