// `moe-worker run` of attention experts beside those of FFNs on two ranks: with the experts spread over them, what it
// is where each rank has all.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_lines.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

std::string pipeline(int expert_parallel) {
  const std::string root = testing::source_dir(), maths = root + "/examples/data/maths.";
  return concat("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: ", root,
                "/examples/base-7m}}\ndefaults: {gang: {expert_parallel: ", expert_parallel,
                "}}\nstages:\n"
                "  - name: convert\n"
                "    convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: 2},\n"
                "              attention: {experts: 4, top_k: 2},\n"
                "              calibration: {tokens: 512, data: [{path: ",
                maths,
                "train.jsonl, max_documents: 20}]}}\n"
                "  - name: train\n"
                "    train: {input: convert.model, steps: 4, sequence_length: 128, micro_batch_rows: 2,\n"
                "            data: [{path: ",
                maths,
                "train.jsonl, max_documents: 50}]}\n"
                "  - name: evaluate\n"
                "    evaluate: {input: train.model, baseline: dense, max_tokens: 1000, sequence_length: 128,\n"
                "               data: [{path: ",
                maths, "valid.jsonl}]}\n");
}

/// What a run left.
struct Left {
  fs::path out;
  std::string table;
  json stages{};              ///< of summary.json
  std::vector<json> steps{};  ///< of metrics.jsonl
  const json& evaluation() const { return stages[2]["details"]["tasks"]["perplexity"]; }
};

Left run_on_two_ranks(const fs::path& folder, int expert_parallel) {
  Left left{.out = folder / concat("out-", expert_parallel), .table = {}};
  const fs::path yaml = folder / concat("small-", expert_parallel, ".yaml");
  write_file_atomically(yaml, pipeline(expert_parallel));
  const testing::ProcessResult ran = testing::run_process(testing::worker_command(2, {"run", yaml, "--out", left.out}));
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  if (ran.exit_code != 0) return left;
  left.table = ran.out;
  left.stages = json::parse(read_file(left.out / "summary.json"))["stages"];
  for (json& line : read_json_lines(left.out / "metrics.jsonl")) {
    if (line.contains("step")) left.steps.push_back(std::move(line));
  }
  return left;
}

int64_t choices_of(const json& load_of_layer) {
  int64_t choices = 0;
  for (const json& count : load_of_layer) choices += count.get<int64_t>();
  return choices;
}

void expect_near(const json& actual, const json& expected, const std::string& what) {
  EXPECT_NEAR(actual.get<double>() / expected.get<double>(), 1, 1e-6) << what;
}

void expect_alike(const Left& spread, const Left& whole) {
  EXPECT_EQ(read_file(spread.out / "convert/output-t0001/model.safetensors"),
            read_file(whole.out / "convert/output-t0001/model.safetensors"));
  ASSERT_EQ(whole.steps.size(), 4U);
  ASSERT_EQ(spread.steps.size(), 4U);
  // Two terms have the same bits in either order; gradients of experts that both ranks have are sums over ranks.
  EXPECT_EQ(spread.steps[0]["loss"], whole.steps[0]["loss"]);
  EXPECT_EQ(spread.steps[0]["attention_expert_load"], whole.steps[0]["attention_expert_load"]);
  for (size_t step = 0; step < 4; ++step) {
    for (const char* loss : {"loss", "balance_loss", "attention_balance_loss"})
      expect_near(spread.steps[step][loss], whole.steps[step][loss], concat(loss, " of step ", step + 1));
  }
  for (const char* loss : {"loss", "baseline_loss"})
    expect_near(spread.stages[2]["metrics"][loss], whole.stages[2]["metrics"][loss], loss);
}

/// In the metrics of each step, of stages and of the evaluation, on the terminal and in the report.
void expect_load_of_attention(const Left& left) {
  for (const json& step : left.steps) {
    ASSERT_EQ(step["attention_expert_load"].size(), 6U);
    for (size_t layer = 0; layer < 6; ++layer) {
      EXPECT_EQ(step["attention_expert_load"][layer].size(), 4U);
      EXPECT_EQ(choices_of(step["attention_expert_load"][layer]), choices_of(step["expert_load"][layer])) << "top-2";
    }
  }
  for (const json& load : left.evaluation()["attention_expert_load"])
    EXPECT_EQ(choices_of(load), choices_of(left.evaluation()["expert_load"][0]));
  for (const size_t stage : {1, 2})
    EXPECT_GE(left.stages[stage]["metrics"]["attention_load_max_over_mean"].get<double>(), 1);
  EXPECT_THAT(left.table, HasSubstr("attention load, layer 5"));
  const std::string html = read_file(left.out / "report.html");
  for (const char* stage : {"convert", "train", "evaluate"})
    EXPECT_THAT(html, HasSubstr(concat("Attention expert load, ", stage)));
}

TEST(AttentionRunTest, SpreadOverRanksItIsWhatItIsWhereEachHasAllExperts) {
  const testing::TempDir folder;
  const Left whole = run_on_two_ranks(folder.path(), 1), spread = run_on_two_ranks(folder.path(), 2);
  if (::testing::Test::HasFailure()) return;
  expect_alike(spread, whole);
  expect_load_of_attention(spread);
  for (const char* temperature : {"0", "1"}) {
    const auto generated = [&](int ranks) {
      const testing::ProcessResult ran = testing::run_process(
          testing::worker_command(ranks, {"generate", whole.out / "train/output-t0001", "--prompt", "What is",
                                          "--max-tokens", "12", "--temperature", temperature}));
      EXPECT_EQ(ran.exit_code, 0) << ran.err;
      return ran.out;
    };
    EXPECT_EQ(generated(2), generated(1)) << "temperature " << temperature;
  }
}

}  // namespace
}  // namespace moe
