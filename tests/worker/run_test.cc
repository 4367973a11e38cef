// `moe-worker run` as a user calls it: stages, gates, what is done twice and what is not, and what it leaves behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "testing/background_process.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string pipeline(const std::string& gate) {
  const std::string root = testing::source_dir();
  return "apiVersion: moe/v1\n"
         "kind: Pipeline\n"
         "name: small\n"
         "inputs: {dense: {path: " +
         root +
         "/examples/base-7m}}\n"
         "stages:\n"
         "  - name: convert\n"
         "    convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: 2},\n"
         "              calibration: {tokens: 512, data: [{path: " +
         root +
         "/examples/data/maths.train.jsonl, max_documents: 20}]}}\n"
         "  - name: train\n"
         "    train: {input: convert.model, steps: 4, sequence_length: 128, micro_batch_rows: 2,\n"
         "            data: [{path: " +
         root +
         "/examples/data/maths.train.jsonl, max_documents: 50}]}\n"
         "  - name: evaluate\n"
         "    evaluate: {input: train.model, baseline: dense, max_tokens: 1000, sequence_length: 128,\n"
         "               data: [{path: " +
         root + "/examples/data/maths.valid.jsonl}]}\n" + gate;
}

constexpr char kOpenGate[] = "  - gate: {name: fine, metric: evaluate.loss, op: \"<\", value: 100}\n";
constexpr char kHoldingGate[] =
    "  - gate: {name: strict, metric: evaluate.loss_ratio_to_baseline, op: \"<\", value: 0.1}\n";
constexpr char kFailingGate[] =
    "  - gate: {name: strict, metric: evaluate.loss_ratio_to_baseline, op: \"<\", value: 0.1, on_fail: FAIL}\n";

class RunTest : public ::testing::Test {
 protected:
  testing::ProcessResult run(const std::string& yaml, std::vector<std::string> extra = {}, int ranks = 1,
                             const std::map<std::string, std::string>& environment = {}) {
    write_file_atomically(folder_ / "small.yaml", yaml);
    std::vector<std::string> arguments{"run", folder_ / "small.yaml", "--out", out_};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return testing::run_process(testing::worker_command(ranks, arguments), environment);
  }
  json summary() { return json::parse(read_file(out_ / "summary.json")); }

  testing::TempDir folder_;
  fs::path out_ = folder_ / "out";
};

/// Some layers stay dense: converted, trained with experts on two ranks, measured, analysed, exported and drawn as
/// such.
TEST_F(RunTest, LayersThatStayDenseGoThroughTheWholePipeline) {
  std::string yaml = pipeline(
      "  - {name: analyze, analyze: {input: train.model, baseline: convert.model}}\n"
      "  - {name: export, export: {input: train.model}}\n");
  yaml.replace(yaml.find("top_k: 2}"), 9, "top_k: 2, layers: [0, 2-3]}");
  yaml.replace(yaml.find("  - name: train\n"), 16, "  - name: train\n    gang: {expert_parallel: 2}\n");
  const testing::ProcessResult ran = run(yaml, {}, 2);
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("load, layer 0"), HasSubstr("load, layer 2"), HasSubstr("load, layer 3"),
                             Not(HasSubstr("load, layer 1")), Not(HasSubstr("load, layer 4"))));
  const json widths = json::parse(read_file(out_ / "train/output-t0001/config.json"))["moe"]["expert_widths"];
  const json scales = summary()["stages"][0]["details"]["output_scales"];
  ASSERT_EQ(widths.size(), scales.size());
  std::vector<size_t> mixtures, dense;
  for (size_t layer = 0; layer < widths.size(); ++layer) {
    (widths[layer] > 0 ? mixtures : dense).push_back(layer);
    EXPECT_EQ(scales[layer].is_null(), widths[layer] == 0) << layer;
  }
  EXPECT_THAT(mixtures, ElementsAre(0, 2, 3));
  std::ifstream metrics(out_ / "metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const json step = json::parse(line);
    if (!step.contains("expert_load")) continue;
    ASSERT_EQ(step["expert_load"].size(), widths.size());
    for (size_t layer = 0; layer < widths.size(); ++layer)
      EXPECT_EQ(step["expert_load"][layer].size(), widths[layer] > 0 ? 4U : 0U) << layer;
  }
  const std::string html = read_file(out_ / "report.html");
  EXPECT_THAT(html, AllOf(HasSubstr("layer 3, expert 0: "), Not(HasSubstr("layer 1, expert"))));
  const json analysis = json::parse(read_file(out_ / "analyze/output-t0001/analysis.json"))["analyses"]["weights"];
  EXPECT_TRUE(analysis["layers"][2].contains("experts"));
  EXPECT_FALSE(analysis["layers"][1].contains("experts"));
  EXPECT_TRUE(analysis["layers"][1].contains("ffn"));
  const json exported = json::parse(read_file(out_ / "export/output-t0001/config.json"));
  EXPECT_EQ(exported["model_type"], "qwen2_moe");
  EXPECT_EQ(exported["mlp_only_layers"], json(dense));
}

TEST_F(RunTest, LeavesSummaryReportAndMetricsAndDoesNothingTwice) {
  const testing::ProcessResult first = run(pipeline(kOpenGate), {}, 2);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_THAT(first.err,
              ::testing::ContainsRegex(
                  "event=data_loaded documents=50 .* rows_planned=[1-9][0-9]* fill=[01].* rows_per_pass=[1-9]"));
  EXPECT_THAT(first.out, HasSubstr("after train"));
  EXPECT_THAT(first.out, HasSubstr("report.html"));
  EXPECT_EQ(summary()["state"], "SUCCEEDED");
  EXPECT_THAT(read_file(out_ / "report.html"), HasSubstr("<svg"));
  std::ifstream metrics(out_ / "metrics.jsonl");
  int steps = 0;
  for (std::string line; std::getline(metrics, line);) steps += json::parse(line).contains("step") ? 1 : 0;
  EXPECT_EQ(steps, 4);
  EXPECT_TRUE(fs::exists(out_ / "train/output-t0001/config.json"));

  const testing::ProcessResult again = run(pipeline(kOpenGate), {}, 2);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_FALSE(fs::exists(out_ / "convert/output-t0002")) << "a finished stage ran again";
  EXPECT_FALSE(fs::exists(out_ / "train/output-t0002"));
  EXPECT_EQ(summary()["state"], "SUCCEEDED");
  EXPECT_THAT(again.out, HasSubstr("after train")) << "the table comes from the records too";

  // How often to save and where a file lies decide nothing.
  const std::string copied = folder_ / "maths.train.jsonl";
  fs::copy(testing::source_dir() + "/examples/data/maths.train.jsonl", copied);
  const testing::ProcessResult kept = run(pipeline(kOpenGate), {"--set", "stages.train.train.keep_checkpoints=3",
                                                                "--set", "stages.train.train.data.0.path=" + copied});
  ASSERT_EQ(kept.exit_code, 0) << kept.err;
  EXPECT_FALSE(fs::exists(out_ / "convert/output-t0002")) << "a finished stage ran again";
  EXPECT_FALSE(fs::exists(out_ / "train/output-t0002"));
  EXPECT_FALSE(fs::exists(out_ / "evaluate/output-t0002"));

  // Another value further down: only what depends on it runs again.
  const testing::ProcessResult changed = run(pipeline(kOpenGate), {"--set", "stages.train.train.learning_rate=0.001"});
  ASSERT_EQ(changed.exit_code, 0) << changed.err;
  EXPECT_FALSE(fs::exists(out_ / "convert/output-t0002"));
  EXPECT_TRUE(fs::exists(out_ / "train/output-t0002/config.json"));
  EXPECT_THAT(changed.err,
              HasSubstr("output-t0001 stays and does not count: train.learning_rate was 0.0002 and is 0.001"));

  // Begun afresh under deploy/gang.sh, and killed before training wrote its record.
  const std::map<std::string, std::string> launcher{{"MOE_LAUNCHER_ID", "gang-1"}};
  const testing::ProcessResult fresh = run(pipeline(kOpenGate), {"--fresh"}, 1, launcher);
  ASSERT_EQ(fresh.exit_code, 0) << fresh.err;
  EXPECT_TRUE(fs::exists(out_ / "convert/output-t0002/config.json"));
  EXPECT_EQ(json::parse(read_file(out_ / "train/output-t0003/STAGE.json"))["digest"],
            json::parse(read_file(out_ / "train/output-t0001/STAGE.json"))["digest"])
      << "the same configuration";
  for (const char* stage : {"train", "evaluate"}) fs::remove(out_ / stage / "output-t0003/STAGE.json");
  // The same command again: what was finished afresh counts, and the outputs of before do not.
  const testing::ProcessResult restarted = run(pipeline(kOpenGate), {"--fresh"}, 1, launcher);
  ASSERT_EQ(restarted.exit_code, 0) << restarted.err;
  EXPECT_FALSE(fs::exists(out_ / "convert/output-t0003"));
  EXPECT_TRUE(fs::exists(out_ / "train/output-t0004/config.json")) << "an output of before --fresh was taken for it";
  EXPECT_TRUE(fs::exists(out_ / "evaluate/output-t0004"));
  EXPECT_TRUE(fs::exists(out_ / "train/output-t0001/config.json"));
}

TEST_F(RunTest, StepsThatWereRaisedMakeAnotherModelThanTheSameStepsAtOnce) {
  const std::string root = testing::source_dir();
  const std::string stages = "apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + root +
                             "/examples/base-7m}}\nstages:\n"
                             "  - name: train\n"
                             "    train: {input: dense, steps: 4, sequence_length: 64, micro_batch_rows: 1, "
                             "checkpoint_every: 1, warmup_steps: 1, long_documents: truncate,\n"
                             "            data: [{path: " +
                             root +
                             "/examples/data/maths.train.jsonl, max_documents: 20}]}\n"
                             "  - name: evaluate\n"
                             "    evaluate: {input: train.model, max_tokens: 200, sequence_length: 64, data: [{path: " +
                             root + "/examples/data/maths.valid.jsonl}]}\n";
  const auto digest = [&](const char* output) {
    return json::parse(read_file(out_ / output / "STAGE.json"))["digest"];
  };
  const testing::ProcessResult at_once = run(stages);  // and what is made of it
  ASSERT_EQ(at_once.exit_code, 0) << at_once.err;
  ASSERT_EQ(run(stages, {"--fresh", "--set", "stages.train.train.steps=2"}).exit_code, 0);
  fs::remove_all(out_ / "train/output-t0001");  // which would count
  const json straight = digest("evaluate/output-t0001");
  const testing::ProcessResult raised = run(stages);
  ASSERT_EQ(raised.exit_code, 0) << raised.err;
  EXPECT_THAT(raised.err, HasSubstr("train.steps was 2 and is 4"));
  EXPECT_TRUE(fs::exists(out_ / "evaluate/output-t0003")) << "the measure of another model was taken for it";
  EXPECT_NE(digest("evaluate/output-t0003"), straight);
  EXPECT_THAT(json::parse(read_file(out_ / "train/output-t0003/STAGE.json"))["history"], HasSubstr("\"steps\":2"));
  const testing::ProcessResult again = run(stages);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_FALSE(fs::exists(out_ / "train/output-t0004")) << "it stands for what was asked for";
  EXPECT_FALSE(fs::exists(out_ / "evaluate/output-t0004"));
}

TEST_F(RunTest, AHoldingGateExitsWithOneAndApprovalGoesOn) {
  const testing::ProcessResult held = run(pipeline(kHoldingGate));
  EXPECT_EQ(held.exit_code, 1) << held.err;
  EXPECT_THAT(held.out + held.err, HasSubstr("--approve strict"));
  EXPECT_EQ(summary()["state"], "HELD");
  const testing::ProcessResult approved = run(pipeline(kHoldingGate), {"--approve", "strict"});
  EXPECT_EQ(approved.exit_code, 0) << approved.err;
  EXPECT_EQ(summary()["state"], "SUCCEEDED");
  EXPECT_FALSE(fs::exists(out_ / "train/output-t0002"));
}

TEST_F(RunTest, AFailingGateExitsWithOne) {
  const testing::ProcessResult failed = run(pipeline(kFailingGate));
  EXPECT_EQ(failed.exit_code, 1) << failed.err;
  EXPECT_THAT(failed.out + failed.err, HasSubstr("strict"));
  EXPECT_EQ(summary()["state"], "FAILED");
}

TEST_F(RunTest, AJobFileIsAPipelineOfOneStage) {
  const std::string root = testing::source_dir();
  const std::string job =
      "apiVersion: moe/v1\nkind: Job\nname: just-evaluate\n"
      "evaluate: {input: " +
      root +
      "/examples/base-7m, max_tokens: 500, sequence_length: 128,\n"
      "           data: [{path: " +
      root + "/examples/data/maths.valid.jsonl}]}\n";
  const testing::ProcessResult result = run(job);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(summary()["state"], "SUCCEEDED");
  EXPECT_TRUE(fs::exists(out_ / "just-evaluate/output-t0001"));
}

// The last of the variants does not fit the model: nothing runs before that is told.
TEST_F(RunTest, AConversionThatItsModelDoesNotAllowIsToldBeforeTheFirstStage) {
  const std::string root = testing::source_dir();
  const testing::ProcessResult refused =
      run("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + root +
              "/examples/base-7m}}\nstages:\n"
              "  - for_each:\n"
              "      variants:\n"
              "        - {name: fits, convert: {ffn: {experts: 4, top_k: 2}}}\n"
              "        - {name: seven, convert: {ffn: {experts: 7, top_k: 2}}}\n"
              "      stages:\n"
              "        - {name: convert, convert: {input: dense, ffn: {method: independent_random},\n"
              "                                   router: {init: kaiming}, scale: {mode: k}}}\n",
          {}, 2);
  EXPECT_EQ(refused.exit_code, 65) << refused.err;
  EXPECT_THAT(refused.err, AllOf(HasSubstr("small.yaml:9: stages.seven-convert.convert.ffn.experts: "),
                                 HasSubstr("ffn.experts 7 does not divide")));
  EXPECT_FALSE(fs::exists(out_ / "fits-convert"));
}

// What is asked of experts is held against models that are there, through trainings too; a conversion makes others.
TEST_F(RunTest, ExpertsThatAModelHasNotAreToldBeforeTheFirstStage) {
  const std::string root = testing::source_dir(), dense = root + "/examples/base-7m";
  const std::string ffn = "ffn: {method: sequential, experts: 4, top_k: 2}, router: {init: kaiming}, scale: {mode: k}}";
  const testing::ProcessResult converted =
      run("apiVersion: moe/v1\nkind: Job\nname: made\nconvert: {input: " + dense + ", " + ffn + "\n");
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  const std::string moe = out_ / "made/output-t0001";
  out_ = folder_ / "refused";
  const std::string data = ", data: [{path: " + root + "/examples/data/maths.train.jsonl}]}}\n";
  const testing::ProcessResult refused =
      run("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + dense + "}, moe: {path: " + moe +
          "}}\nstages:\n"
          "  - {name: convert, convert: {input: dense, " +
          ffn + "}\n  - {name: five, evaluate: {input: moe, top_k: 5" + data +
          "  - {name: four, evaluate: {input: moe, baseline: dense, top_k: 4" + data +
          "  - {name: later, evaluate: {input: convert.model, top_k: 5" + data +
          "  - {name: train, train: {input: dense, steps: 1, routing: random, capacity_factor: 1.25" + data +
          "  - {name: trained, evaluate: {input: train.model, top_k: 2" + data +
          "  - {name: capacity, train: {input: moe, steps: 1, capacity_factor: 1.5" + data);
  EXPECT_EQ(refused.exit_code, 65) << refused.err;
  EXPECT_THAT(
      refused.err,
      AllOf(
          HasSubstr("small.yaml:7: stages.five.evaluate.top_k: " + moe +
                    ": top_k 5 of the model's 4 experts; use 1 to 4"),
          HasSubstr("small.yaml:10: stages.train.train.routing: routing 'random' chooses experts"),
          HasSubstr("it is dense; remove it (" + dense + ")"),
          HasSubstr(
              "small.yaml:10: stages.train.train.capacity_factor: capacity_factor 1.25 is of feed-forward experts"),
          HasSubstr("layers are dense; remove it (" + dense + ")"),
          HasSubstr("small.yaml:11: stages.trained.evaluate.top_k: " + dense + ": top_k 2 is of feed-forward experts"),
          HasSubstr(
              "small.yaml:12: stages.capacity.train.capacity_factor: capacity_factor 1.5 is of models with top_k 1"),
          HasSubstr("has top_k 2, whose experts take every token; remove it (" + moe + ")"),
          Not(HasSubstr("stages.four")), Not(HasSubstr("stages.later"))));
  EXPECT_FALSE(fs::exists(out_ / "convert"));
}

// Two inputs and a stage's model as experts; each is told apart by what it holds, and the merge by all of them.
TEST_F(RunTest, AMergeOfInputsAndOfAStagesModelNamesItsParents) {
  const std::string root = testing::source_dir(), dense = root + "/examples/base-7m";
  fs::copy(dense, folder_ / "copy");
  const std::string stages =
      "apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + dense +
      "}, copy: {path: " + (folder_ / "copy").string() +
      "}}\nstages:\n"
      "  - name: maths\n"
      "    train: {input: dense, steps: 2, sequence_length: 256, micro_batch_rows: 2,\n"
      "            data: [{path: " +
      root +
      "/examples/data/maths.train.jsonl, max_documents: 60}]}\n"
      "  - name: merge\n"
      "    convert:\n"
      "      input: dense\n"
      "      ffn: {method: merge, others: [copy, maths.model], top_k: 2, options: {router: hidden_avg},\n"
      "            prompts: [{positive: [Once upon a time]}, {positive: [The weather is fine]},\n"
      "                      {positive: ['2 + 3 = 5'], negative: [Once upon a time]}]}\n"
      "      router: {topk_norm: renorm}\n"
      "      scale: {mode: fixed, value: 1}\n"
      "  - {name: look, analyze: {input: merge.model}}\n";
  const testing::ProcessResult result = run(stages, {}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json conversion = json::parse(read_file(out_ / "merge/output-t0001/conversion.json"));
  EXPECT_EQ(conversion["experts"], 3);
  ASSERT_EQ(conversion["others"].size(), 2U);
  EXPECT_EQ(conversion["source"]["path"], dense);
  EXPECT_EQ(conversion["others"][0]["path"], (folder_ / "copy").string());
  EXPECT_EQ(conversion["others"][0]["digest"], conversion["source"]["digest"]) << "a copy holds the same";
  EXPECT_EQ(conversion["others"][1]["path"], (out_ / "maths/output-t0001").string());
  EXPECT_NE(conversion["others"][1]["digest"], conversion["source"]["digest"]);
  ASSERT_EQ(run(stages, {}, 2).exit_code, 0);
  EXPECT_FALSE(fs::exists(out_ / "merge/output-t0002")) << "nothing is done twice";
}

// A kind that makes no model: its JSON is what is left, and what the run ends with.
TEST_F(RunTest, AnAnalysisLeavesItsJsonAndNumbersForGates) {
  const std::string root = testing::source_dir();
  const std::string stages = "apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + root +
                             "/examples/base-7m}}\nstages:\n"
                             "  - {name: look, analyze: {input: dense, baseline: dense}}\n"
                             "  - gate: {name: same, metric: look.weight_change, op: '==', value: 0}\n";
  const testing::ProcessResult result = run(stages, {}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const fs::path output = out_ / "look/output-t0001";
  EXPECT_THAT(result.out, HasSubstr("analyze  " + output.string()));
  EXPECT_THAT(read_file(out_ / "report.html"), HasSubstr(output.string()));
  const json analysis = json::parse(read_file(output / "analysis.json"));
  EXPECT_EQ(analysis["metrics"], summary()["stages"][0]["metrics"]);
  EXPECT_EQ(analysis["analyses"]["weights"]["layers"].size(), 6U);
  EXPECT_EQ(analysis["analyses"].size(), 1U) << "of a dense model there is nothing else to see without text";
  EXPECT_THAT(read_file(output / "analysis.html"), HasSubstr("<svg"));
}

// Gates may name what was measured of a conversion before any training; its numbers are those of an evaluation.
TEST_F(RunTest, GatesAndReportHaveWhatWasMeasuredOfAConversion) {
  const std::string root = testing::source_dir();
  const std::string convert =
      "apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + root +
      "/examples/base-7m}}\nstages:\n"
      "  - name: convert\n"
      "    convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: 2},\n"
      "              calibration: {tokens: 512, data: [{path: " +
      root +
      "/examples/data/maths.train.jsonl, max_documents: 60}]}}\n"
      "  - gate: {name: exact, metric: convert.step0_all_logit_difference, op: '<=', value: 1.0e-5}\n";
  const std::string impossible = "  - gate: {name: lossless, metric: convert.step0_kl_divergence, op: '<', value: 0}\n";
  const testing::ProcessResult held = run(convert + impossible, {}, 2);
  EXPECT_EQ(held.exit_code, 1) << held.err;
  EXPECT_THAT(held.err, HasSubstr("gate 'exact' passes: convert.step0_all_logit_difference is "));
  EXPECT_THAT(held.err, HasSubstr("gate 'lossless' fails: convert.step0_kl_divergence is "));
  EXPECT_THAT(held.out, ::testing::ContainsRegex("convert before training, on [0-9]+ held-out tokens: loss [0-9]"));
  EXPECT_THAT(read_file(out_ / "report.html"), HasSubstr("<h2>Conversions</h2>"));
  const json record = json::parse(read_file(out_ / "convert/output-t0001/STAGE.json"));
  const json made = json::parse(read_file(out_ / "convert/output-t0001/conversion.json"));
  EXPECT_EQ(record["details"]["receipt"], made["receipt"]);
  EXPECT_EQ(record["metrics"]["step0_loss"], made["receipt"]["chosen"]["loss"]);
  EXPECT_GT(record["metrics"]["peak_memory_bytes"].get<double>(), 20e6) << "nothing was measured";
  EXPECT_GT(record["metrics"]["seconds"].get<double>(), 0);
  EXPECT_FALSE(made.contains("seconds") || made["receipt"].contains("seconds")) << "it is the same bytes each time";
}

TEST_F(RunTest, TwoRunsInOneFolderAreRefused) {
  fs::create_directories(out_);
  const FileLock lock(out_ / ".lock");
  const testing::ProcessResult result = run(pipeline(kOpenGate));
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_THAT(result.err, HasSubstr("another process"));
}

/// Each rank runs in a folder of its own, as nodes do that have copies of what they read.
class UnlikeRanksTest : public RunTest {
 protected:
  UnlikeRanksTest() {
    const std::string root = testing::source_dir();
    text_ = read_file(root + "/examples/data/maths.train.jsonl");
    text_.resize(text_.find('\n', 4000) + 1);
    for (const char* rank : {"0", "1"}) {
      fs::create_directories(folder_ / rank);
      fs::copy(root + "/examples/base-7m", folder_ / rank / "model", fs::copy_options::recursive);
      write_file_atomically(folder_ / rank / "same.jsonl", text_);
      write_file_atomically(folder_ / rank / "other.jsonl", text_);
    }
  }

  void change_data_of_rank_1() {
    std::ofstream(folder_ / "1/other.jsonl", std::ios::app) << text_.substr(0, text_.find('\n') + 1);
  }
  void change_model_of_rank_1() {
    std::fstream file(folder_ / "1/model/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-4, std::ios::end);
    file.write("\0\0\0\0", 4);  // one weight is 0
  }

  /// The two words of `job` that are in capitals stand for files in the ranks' folders.
  testing::ProcessResult run_unlike(std::string job) {
    const auto put = [&job](const std::string& word, const std::string& value) {
      for (size_t at = job.find(word); at != std::string::npos; at = job.find(word))
        job.replace(at, word.size(), value);
    };
    put("MODEL", "/proc/self/cwd/model");
    put("DATA", "[{path: /proc/self/cwd/same.jsonl}, {path: /proc/self/cwd/other.jsonl}]");
    write_file_atomically(folder_ / "job.yaml", "apiVersion: moe/v1\nkind: Job\nname: job\n" + job);
    const std::string command = "cd " + folder_.path().string() + "/$OMPI_COMM_WORLD_RANK && exec " +
                                testing::worker_path() + " run " + folder_.path().string() + "/job.yaml --out " +
                                out_.string() + " --collective-timeout 15";
    return testing::run_process(
        {"bash", testing::source_dir() + "/deploy/gang.sh", "--ranks", "2", "--once", "--", "sh", "-c", command});
  }
  void expect_refusal(const testing::ProcessResult& result, const std::string& where, const std::string& what) {
    EXPECT_EQ(result.exit_code, 74) << result.err;
    EXPECT_THAT(result.err, ::testing::AllOf(HasSubstr("do not see the same (" + where), HasSubstr(what),
                                             HasSubstr(" on rank 1 (")));
    EXPECT_THAT(result.err, ::testing::Not(HasSubstr("same.jsonl")));
    EXPECT_FALSE(fs::exists(out_ / "job/output-t0001")) << "something was made of it";
  }

  std::string text_;
};

constexpr char kUnlikeTraining[] =
    "train: {input: MODEL, steps: 2, sequence_length: 64, micro_batch_rows: 2, long_documents: truncate, data: DATA}\n";
constexpr char kUnlikeConversion[] =
    "convert: {input: MODEL, ffn: {method: independent_random, experts: 4, top_k: 2}, calibration: {tokens: 256, data: "
    "DATA}}\n";
constexpr char kUnlikeEvaluation[] = "evaluate: {input: MODEL, max_tokens: 500, sequence_length: 64, data: DATA}\n";

TEST_F(UnlikeRanksTest, DataOfTrainingIsNamedBeforeTheFirstStep) {
  change_data_of_rank_1();
  expect_refusal(run_unlike(kUnlikeTraining), "before the first step)", "other.jsonl: ");
  EXPECT_FALSE(fs::exists(out_ / "job/attempts/0001/metrics.jsonl")) << "no step was made";
}

TEST_F(UnlikeRanksTest, TheModelIsNamedBeforeItIsConverted) {
  change_model_of_rank_1();
  expect_refusal(run_unlike(kUnlikeConversion), "before the conversion)", "/proc/self/cwd/model: ");
}

TEST_F(UnlikeRanksTest, CalibrationTextIsNamedBeforeItIsUsed) {
  change_data_of_rank_1();
  expect_refusal(run_unlike(kUnlikeConversion), "calibration text)", "other.jsonl: ");
}

TEST_F(UnlikeRanksTest, TheModelIsNamedBeforeItIsEvaluated) {
  change_model_of_rank_1();
  expect_refusal(run_unlike(kUnlikeEvaluation), "load /proc/self/cwd/model)", " of /proc/self/cwd/model: ");
}

TEST_F(UnlikeRanksTest, DataOfEvaluationIsNamedBeforeItIsMeasured) {
  change_data_of_rank_1();
  expect_refusal(run_unlike(kUnlikeEvaluation), "before the evaluation)", "other.jsonl: ");
}

/// What a later stage reads was recorded when the run began, and is edited while an earlier stage works.
class EditedDataTest : public RunTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(
    Kinds, EditedDataTest,
    ::testing::Values("convert: {input: dense, ffn: {method: sequential, experts: 4, top_k: 2}, calibration: {tokens: "
                      "256, data: DATA}}",
                      "train: {input: dense, steps: 1, sequence_length: 64, micro_batch_rows: 1, long_documents: "
                      "truncate, data: DATA}",
                      "evaluate: {input: dense, sequence_length: 64, max_tokens: 200, data: DATA}"),
    [](const auto& kind) { return std::string(kind.param).substr(0, std::string(kind.param).find(':')); });

TEST_P(EditedDataTest, IsNamedAndNothingIsMadeOfIt) {
  const std::string root = testing::source_dir(), data = folder_ / "edited.jsonl";
  fs::copy(root + "/examples/data/maths.valid.jsonl", data);
  std::string second = GetParam();
  second.replace(second.find("DATA"), 4, "[{path: " + data + "}]");
  write_file_atomically(folder_ / "small.yaml",
                        "apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: " + root +
                            "/examples/base-7m}}\nstages:\n"
                            "  - name: first\n"
                            "    evaluate: {input: dense, sequence_length: 128, max_tokens: 10000, data: [{path: " +
                            root +
                            "/examples/data/maths.train.jsonl}]}\n"
                            "  - name: second\n"
                            "    " +
                            second + "\n");
  testing::BackgroundProcess process(testing::worker_command(1, {"run", folder_ / "small.yaml", "--out", out_}),
                                     folder_ / "log");
  ASSERT_TRUE(testing::eventually(std::chrono::seconds(60), [&] {
    return fs::exists(out_ / "first/attempts/0001/stage.json");
  })) << process.output();
  const std::string text = read_file(data);
  std::ofstream(data, std::ios::app) << text.substr(0, text.find('\n') + 1);
  const std::optional<int> exit_code = process.wait(std::chrono::seconds(60));
  EXPECT_EQ(exit_code, 65) << process.output();
  EXPECT_THAT(process.output(), ::testing::AllOf(HasSubstr("stage second: data changed between"),
                                                 HasSubstr(".0.path: file " + data + " held "),
                                                 HasSubstr("Put back what it held, or start again")));
  EXPECT_FALSE(fs::exists(out_ / "second/output-t0001")) << "something was made of it";
}

}  // namespace
}  // namespace moe
