// SmolLM2-135M-Instruct end to end, as configs/smollm2-135m_independent-random_cpu.yaml has it: converted, trained on
// chats for 6 steps (in the full run for its 50: about 9 minutes of CPU time) and exported by a gang of two; then
// transformers loads the result, its chat template, its generation and its perplexity, and all must be ours. Skips
// where the model, the shared data or transformers are missing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "testing/full_run.h"
#include "testing/paths.h"
#include "testing/peer_python.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kRoot = testing::source_dir();
const fs::path kShared = kRoot / "../shared/data";
const fs::path kConfig = kRoot / "configs/smollm2-135m_independent-random_cpu.yaml";
constexpr const char* kPrompt = "Name three colours and say where each can be seen.";
constexpr int kWindows = 4;                ///< of WikiText-2
const int kSteps = testing::sized(6, 50);  ///< of stage 1
const int kAnswerTokens = testing::sized(16, 64);
constexpr size_t kWindowBytes = 800;  ///< about 230 tokens

using testing::smollm2_model;

testing::ProcessResult run(const std::vector<std::string>& arguments) {
  return testing::run_process(arguments, {{"OMP_NUM_THREADS", "2"}, {"MKL_NUM_THREADS", "2"}}, kRoot);
}

/// Whole lines of the test set from its beginning, one {"text"} a window.
void write_windows(const fs::path& path) {
  std::istringstream lines(read_file(kShared / "eval/wikitext2.test.txt"));
  std::string line, text, all;
  for (int windows = 0; windows < kWindows && std::getline(lines, line);) {
    text += line + "\n";
    if (text.size() < kWindowBytes) continue;
    all += json{{"text", text}}.dump() + "\n";
    text.clear();
    ++windows;
  }
  write_file_atomically(path, all);
}

/// Log-probabilities of each window's tokens after the first.
std::vector<std::vector<double>> our_scores(const fs::path& model, const fs::path& texts) {
  const testing::ProcessResult result = run({testing::worker_path(), "score", model, "--text", texts});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::vector<std::vector<double>> windows;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) windows.push_back(json::parse(line)["logprobs"]);
  return windows;
}

struct Perplexity {
  double logprob = 0;
  int64_t tokens = 0;
  void add(const std::vector<double>& logprobs, size_t count) {
    for (size_t i = 0; i < count; ++i) logprob += logprobs[i];
    tokens += static_cast<int64_t>(count);
  }
  double value() const { return std::exp(-logprob / static_cast<double>(tokens)); }
};

/// Perplexities must agree to 1e-4, over all tokens that no routing tie comes before in their window; ties are rare.
void compare_perplexity(const std::string& name, const std::vector<std::vector<double>>& windows, const json& peer) {
  ASSERT_EQ(windows.size(), peer["windows"].size()) << name;
  Perplexity ours, theirs, ours_all, theirs_all;
  int ties = 0;
  for (size_t i = 0; i < windows.size(); ++i) {
    const json& window = peer["windows"][i];
    const std::vector<double> logprobs = window["logprobs"];
    ASSERT_EQ(windows[i].size(), logprobs.size()) << name << ", window " << i << ": other tokens";
    ties += window["tie"].is_null() ? 0 : 1;
    const size_t clear =
        window["tie"].is_null() ? logprobs.size() : std::min(window["tie"].get<size_t>(), logprobs.size());
    ours.add(windows[i], clear);
    theirs.add(logprobs, clear);
    ours_all.add(windows[i], logprobs.size());
    theirs_all.add(logprobs, logprobs.size());
  }
  const double difference = std::abs(ours.value() / theirs.value() - 1);
  std::cout << name << " (" << peer["type"].get<std::string>() << "): WikiText-2 perplexity " << ours.value()
            << ", transformers " << theirs.value() << ", relative difference " << difference << " over " << ours.tokens
            << " tokens; with those behind " << ties << " routing ties "
            << std::abs(ours_all.value() / theirs_all.value() - 1) << " over " << ours_all.tokens << "\n";
  EXPECT_LE(difference, 1e-4) << name;
  EXPECT_GE(ours.tokens, ours_all.tokens / 10) << name << ": nearly all windows have a tie at their beginning";
}

class SmolLm2EndToEndTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(testing::peer_python()))
      GTEST_SKIP() << "no transformers: " << testing::peer_python() << " is missing (deploy/install_deps.sh --peers)";
    if (!fs::exists(smollm2_model()))
      GTEST_SKIP() << smollm2_model() << " is missing; run: bash deploy/install_deps.sh --peers";
    if (!fs::exists(kShared / "sft")) GTEST_SKIP() << "the shared data is not beside the project";
  }

  /// The committed pipeline on the shared chats; a record per stage.
  std::map<std::string, json> run_pipeline() {
    const std::string train = (kShared / "sft/chat.train.jsonl").string(),
                      valid = (kShared / "sft/chat.valid.jsonl").string();
    const testing::ProcessResult result =
        run({"bash",
             kRoot / "deploy/gang.sh",
             "--ranks",
             "2",
             "--once",
             "--",
             testing::worker_path(),
             "run",
             kConfig,
             "--out",
             out_,
             "--set",
             "inputs.dense.path=" + smollm2_model().string(),
             "--set",
             "stages.convert.convert.calibration.data=[{path: " + train + ", max_documents: 50}]",
             "--set",
             concat("stages.convert.convert.calibration.tokens=", testing::sized(512, 2048)),
             "--set",
             "stages.evaluate-converted.evaluate.data=[{path: " + valid + "}]",
             "--set",
             "stages.stage1.train.data=[{path: " + train + ", max_documents: 1000}]",
             "--set",
             concat("stages.stage1.train.steps=", kSteps),
             "--set",
             concat("stages.evaluate-converted.evaluate.max_tokens=", testing::sized(512, 2048)),
             "--set",
             concat("stages.evaluate-stage1.evaluate.max_tokens=", testing::sized(512, 2048)),
             "--set",
             "stages.evaluate-stage1.evaluate.data=[{path: " + valid + "}]"});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    std::map<std::string, json> stages;
    if (result.exit_code != 0) return stages;
    const json summary = json::parse(read_file(out_ / "summary.json"));
    for (const json& stage : summary["stages"]) stages[stage["stage"]] = stage["details"];
    return stages;
  }

  testing::TempDir folder_;
  fs::path out_ = folder_ / "out";
};

TEST_F(SmolLm2EndToEndTest, TransformersGetsWhatWeTrained) {
  const std::map<std::string, json> stages = run_pipeline();
  ASSERT_EQ(stages.size(), 5U);
  const double dense = stages.at("evaluate-converted")["baseline"]["tasks"]["perplexity"]["loss"],
               converted = stages.at("evaluate-converted")["tasks"]["perplexity"]["loss"],
               trained = stages.at("evaluate-stage1")["tasks"]["perplexity"]["loss"];
  std::cout << "held-out chat loss: dense " << dense << ", converted " << converted << ", after " << kSteps << " steps "
            << trained << "\n";
  EXPECT_LT(dense, trained);
  EXPECT_LT(trained, converted - testing::sized(0.0, 0.5));

  const fs::path converted_export = folder_ / "converted";
  const testing::ProcessResult exported = run(
      {testing::worker_path(), "export", out_ / "convert/output-t0001", "-o", converted_export, "--dtype", "float32"});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  const fs::path trained_export = out_ / "export/output-t0001";
  write_windows(folder_ / "windows.jsonl");
  const testing::ProcessResult oracle =
      run({testing::peer_python(), kRoot / "tests/e2e/smollm2_oracle.py", folder_ / "oracle.json",
           folder_ / "windows.jsonl", kPrompt, std::to_string(kAnswerTokens), smollm2_model(), converted_export,
           trained_export});
  ASSERT_EQ(oracle.exit_code, 0) << oracle.out << oracle.err;
  const json theirs = json::parse(read_file(folder_ / "oracle.json"));

  for (const auto& [name, ours, stock] : {std::tuple{"dense", smollm2_model(), smollm2_model()},
                                          {"converted", out_ / "convert/output-t0001", converted_export},
                                          {"trained", out_ / "stage1/output-t0001", trained_export}}) {
    const json& peer = theirs[stock.string()];
    EXPECT_EQ(peer["keys"], json::parse("[[], [], []]")) << name << ": missing, unexpected and mismatched keys";
    compare_perplexity(name, our_scores(ours, folder_ / "windows.jsonl"), peer);
    // The exported directory is read by us, too: the same text from both programs.
    const testing::ProcessResult generated = run({testing::worker_path(), "generate", stock, "--chat", "--prompt",
                                                  kPrompt, "--max-tokens", std::to_string(kAnswerTokens)});
    ASSERT_EQ(generated.exit_code, 0) << generated.err;
    EXPECT_EQ(generated.out, peer["answer"].get<std::string>() + "\n") << name;
    std::cout << "  " << peer["answer_tokens"] << " tokens: " << peer["answer"] << "\n";
  }
  const json& peer = theirs[trained_export.string()];
  EXPECT_EQ(
      peer["rendered"],
      concat("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
             "<|im_start|>user\n",
             kPrompt, "<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_NE(peer["type"], "LlamaForCausalLM");
}

}  // namespace
}  // namespace moe
