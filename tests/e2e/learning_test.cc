// Does it learn? Dense models lose most of their ability in the conversion; training must bring it back. Figures are
// printed.

#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/file_io.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kRoot = testing::source_dir();
const fs::path kShared = kRoot / ".." / "shared";

/// Runs a pipeline in one process on two threads and returns the details of each stage's record.
std::map<std::string, json> run(const std::string& yaml) {
  const testing::TempDir folder;
  write_file_atomically(folder / "p.yaml", yaml);
  const testing::ProcessResult result =
      testing::run_process({testing::worker_path(), "run", folder / "p.yaml", "--out", folder / "out"},
                           {{"OMP_NUM_THREADS", "2"}, {"MKL_NUM_THREADS", "2"}}, kRoot);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::map<std::string, json> details;
  if (result.exit_code != 0) return details;
  const json summary = json::parse(read_file(folder / "out/summary.json"));
  for (const json& stage : summary["stages"]) details[stage["stage"]] = stage["details"];
  return details;
}

TEST(LearningTest, StoriesCloseMostOfTheGap) {
  const fs::path model = kShared / "models/stories260k", train = kShared / "data/corpus/stories.train.jsonl",
                 valid = kShared / "data/corpus/stories.valid.jsonl";
  if (!fs::exists(model) || !fs::exists(train)) GTEST_SKIP() << "the shared models and data are not beside the project";
  const std::string evaluate =
      "evaluate: {baseline: dense, append_eos: false, sequence_length: 256, data: [{path: " + valid.string() +
      ", domain: stories}], input: ";
  const auto details =
      run("apiVersion: moe/v1\nkind: Pipeline\nname: stories\ninputs: {dense: {path: " + model.string() +
          "}}\ndefaults: {seed: 1}\nstages:\n"
          "  - name: convert\n    convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: 2}, "
          "calibration: {data: [{path: " +
          train.string() +
          "}]}}\n"
          "  - name: before\n    " +
          evaluate +
          "convert.model}\n"
          // Steps of 16 rows of 256: half a million tokens in the full run, a quarter of it else.
          "  - name: stage1\n    train: {input: convert.model, append_eos: false, sequence_length: 256, "
          "micro_batch_rows: 16, steps: " +
          std::to_string(testing::sized(61, 122)) +
          ",\n"
          "            learning_rate: 3.0e-3, weight_decay: 0.0, warmup_steps: 5, checkpoint_every: 0, data: [{path: " +
          train.string() +
          "}]}\n"
          "  - name: after\n    " +
          evaluate + "stage1.model}\n");
  ASSERT_EQ(details.size(), 4U);
  const double dense = details.at("before")["baseline"]["tasks"]["perplexity"]["loss"],
               converted = details.at("before")["tasks"]["perplexity"]["loss"],
               trained = details.at("after")["tasks"]["perplexity"]["loss"];
  const double closed = (converted - trained) / (converted - dense);
  std::cout << "stories260k, 4 experts top-2: dense " << dense << ", converted " << converted << ", after "
            << testing::sized(0.25, 0.5) << " M tokens " << trained << ": " << 100 * closed << " % of the gap closed\n";
  EXPECT_GE(closed, testing::sized(0.7, 0.8));
  EXPECT_LT(dense, trained);
  EXPECT_LT(trained, converted);
}

class BaseLearningTest : public ::testing::TestWithParam<std::string> {};

TEST_P(BaseLearningTest, EveryTrainedDomainGetsBetter) {
  const std::string data = (kRoot / "examples/data").string();
  const std::vector<std::string> domains{"general", "maths", "books", "code"};
  std::string train, valid;
  for (const std::string& domain : domains) {
    train += "{path: " + data + "/" + domain + ".train.jsonl}, ";
    valid += "{path: " + data + "/" + domain + ".valid.jsonl}, ";
  }
  const std::string evaluate = "evaluate: {baseline: dense, max_tokens: 4000, data: [" + valid + "], input: ";
  const auto details =
      run("apiVersion: moe/v1\nkind: Pipeline\nname: base\ninputs: {dense: {path: " +
          (kRoot / "examples/base-7m").string() +
          "}}\ndefaults: {seed: 2}\nstages:\n"
          "  - name: convert\n    convert: {input: dense, ffn: {method: " +
          GetParam() + ", experts: 8, top_k: 2}, calibration: {data: [" + train +
          "]}}\n"
          "  - name: before\n    " +
          evaluate +
          "convert.model}\n"
          "  - name: train\n    train: {input: convert.model, sequence_length: 256, steps: " +
          std::to_string(testing::sized(15, 30)) + ", learning_rate: 1.0e-3, checkpoint_every: 0, data: [" + train +
          "]}\n"
          "  - name: after\n    " +
          evaluate + "train.model}\n");
  ASSERT_EQ(details.size(), 4U);
  for (const std::string& domain : domains) {
    const double dense = details.at("before")["baseline"]["tasks"]["perplexity"]["domains"][domain]["loss"],
                 converted = details.at("before")["tasks"]["perplexity"]["domains"][domain]["loss"],
                 trained = details.at("after")["tasks"]["perplexity"]["domains"][domain]["loss"];
    std::cout << GetParam() << ", " << domain << ": dense " << dense << ", converted " << converted << ", trained "
              << trained << "\n";
    EXPECT_LT(trained, converted) << domain;
  }
}
INSTANTIATE_TEST_SUITE_P(Methods, BaseLearningTest, ::testing::Values("independent_random", "sequential"));

}  // namespace
}  // namespace moe
