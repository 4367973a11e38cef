// Exports as a user makes them: a stage of a pipeline on two ranks, and the command.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kPipeline[] = R"(apiVersion: moe/v1
kind: Pipeline
name: ship
inputs: {dense: {path: ROOT/examples/base-7m}}
defaults: {gang: {ranks: 2, expert_parallel: 2}}
stages:
  - {name: convert, convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: fixed, value: 2}}}
  - {name: export, export: {input: convert.model, dtype: float32}}
  - {name: evaluate, evaluate: {input: export.model, baseline: convert.model, max_tokens: 400, sequence_length: 64, data: [{path: ROOT/examples/data/maths.valid.jsonl}]}}
  - gate: {name: whole, metric: export.padded_size_ratio, op: "==", value: 1}
  - gate: {name: unrounded, metric: export.max_relative_rounding, op: "==", value: 0}
  - {name: back, export: {input: convert.model, format: dense, dtype: source}}
)";

testing::ProcessResult worker(std::vector<std::string> arguments, int ranks = 1) {
  return testing::run_process(testing::worker_command(ranks, std::move(arguments)));
}

class ExportStageTest : public ::testing::Test {
 protected:
  static std::string pipeline() {
    std::string text = kPipeline;
    for (size_t at = text.find("ROOT"); at != std::string::npos; at = text.find("ROOT"))
      text.replace(at, 4, testing::source_dir());
    return text;
  }
  testing::TempDir folder_;
};

TEST_F(ExportStageTest, AStageGivesAModelMetricsAndAPlaceInTheReport) {
  write_file_atomically(folder_ / "ship.yaml", pipeline());
  const testing::ProcessResult result = worker({"run", folder_ / "ship.yaml", "--out", folder_ / "out"}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("export  " + (folder_ / "out/export/output-t0001").string()));
  EXPECT_THAT(result.err, HasSubstr("event=exported format=mixtral output="));
  const json evaluation = json::parse(read_file(folder_ / "out/evaluate/output-t0001/evaluation.json"));
  EXPECT_NEAR(evaluation["tasks"]["perplexity"]["loss"].get<double>(),
              evaluation["baseline"]["tasks"]["perplexity"]["loss"].get<double>(), 1e-6);
  EXPECT_EQ(json::parse(read_file(folder_ / "out/export/output-t0001/config.json"))["architectures"][0],
            "MixtralForCausalLM");
  const json record = json::parse(read_file(folder_ / "out/export/output-t0001/STAGE.json"));
  EXPECT_EQ(record["metrics"]["shards"], 1);
  EXPECT_EQ(record["details"]["export"]["format"], "mixtral");
  // The dense model is there again.
  EXPECT_EQ(json::parse(read_file(folder_ / "out/back/output-t0001/config.json"))["model_type"], "llama");

  // The commands on what the stages left.
  const std::string converted = folder_ / "out/convert/output-t0001";
  const testing::ProcessResult again =
      worker({"export", converted, "-o", folder_ / "again", "--dtype", "float32", "--max-shard-size", "4MB"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, AllOf(HasSubstr("CLIENT"), HasSubstr("transformers"), HasSubstr("vLLM"),
                               HasSubstr("llama.cpp"), HasSubstr("passed over")));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "again/model.safetensors.index.json"));
  write_file_atomically(folder_ / "ids.jsonl", "{\"ids\": [1, 5, 9]}\n{\"ids\": [1, 2, 3]}\n");
  EXPECT_EQ(worker({"logits", folder_ / "again", "--ids", folder_ / "ids.jsonl", "--out", folder_ / "a.safetensors"})
                .exit_code,
            0);
  EXPECT_EQ(worker({"logits", converted, "--ids", folder_ / "ids.jsonl", "--out", folder_ / "b.safetensors"}).exit_code,
            0);
  EXPECT_EQ(read_file(folder_ / "a.safetensors"), read_file(folder_ / "b.safetensors"))
      << "a scale of 2 folds without rounding";
}

TEST_F(ExportStageTest, WhatIsRefusedAndHow) {
  const std::string dense = testing::source_dir() + "/examples/base-7m";
  const testing::ProcessResult refused = worker({"export", dense, "-o", folder_ / "x"});
  EXPECT_EQ(refused.exit_code, 65);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("no stock architecture holds"), HasSubstr("it is a dense model"),
                                 HasSubstr("--format native")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x"));
  EXPECT_EQ(worker({"export", dense, "-o", folder_ / "x", "--format", "gguf"}).exit_code, 64);
  EXPECT_EQ(worker({"export", dense}).exit_code, 64);
  write_file_atomically(folder_ / "ids.jsonl", "{\"ids\": [1, 5, 9]}\n{\"ids\": [1]}\n");
  const testing::ProcessResult uneven =
      worker({"logits", dense, "--ids", folder_ / "ids.jsonl", "--out", folder_ / "a.safetensors"});
  EXPECT_EQ(uneven.exit_code, 65);
  EXPECT_THAT(uneven.err, HasSubstr("ids.jsonl:2: 1 ids; all documents must have the same number"));
}

}  // namespace
}  // namespace moe
