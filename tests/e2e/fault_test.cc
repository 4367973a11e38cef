// kill -9 of one rank at random steps and inside a checkpoint: mpirun ends, the same command again resumes, and the
// losses of every step and the final weights are those of an undisturbed run, bit for bit.

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/file_io.h"
#include "common/rng.h"
#include "testing/paths.h"
#include "testing/rank_processes.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"
#include "testing/training_results.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int kSteps = 24;
constexpr int kRanks = 2;

constexpr char kPipeline[] = R"(apiVersion: moe/v1
kind: Pipeline
name: fault
inputs: {dense: {path: examples/base-7m}}
defaults: {gang: {ranks: 2, expert_parallel: 2}, seed: 11}
stages:
  - name: convert
    convert: {input: dense, ffn: {method: independent_random, experts: 8, top_k: 2}, scale: {mode: energy}, router: {init: kaiming}}
  - name: train
    train:
      input: convert.model
      data: [{path: examples/data/maths.train.jsonl, max_documents: 300}]
      steps: 24
      sequence_length: 128
      micro_batch_rows: 4
      micro_steps: 2
      checkpoint_every: 5
)";

std::vector<std::string> command_for(const fs::path& config, const fs::path& out) {
  return testing::worker_command(kRanks, {"run", config.string(), "--out", out.string()});
}

fs::path newest(const fs::path& folder, const std::string& prefix) {
  fs::path best;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(folder, missing)) {
    if (entry.path().filename().string().rfind(prefix, 0) == 0 && entry.path() > best) best = entry.path();
  }
  return best;
}

/// XXH3 of every weight file of the trained model.
std::map<std::string, std::string> weights(const fs::path& out) {
  return testing::weights_of(newest(out / "train", "output-t"));
}

/// Starts the gang, kills one rank as soon as `moment` holds, and returns whether it was killed before the end.
bool run_and_kill(const fs::path& config, const fs::path& out, int victim, const std::function<bool()>& moment) {
  bool killed = false;
  std::thread killer([&] {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    bool seen = false;
    while (std::chrono::steady_clock::now() < deadline) {
      const std::vector<pid_t> ranks = testing::rank_processes(out);
      if (seen && ranks.empty()) return;  // it finished first
      seen = seen || !ranks.empty();
      if (static_cast<int>(ranks.size()) == kRanks && moment()) {
        killed = kill(ranks[victim], SIGKILL) == 0;
        return;
      }
      std::this_thread::yield();
    }
  });
  const testing::ProcessResult result = testing::run_process(command_for(config, out), {}, testing::source_dir());
  killer.join();
  if (killed) {
    EXPECT_NE(result.exit_code, 0) << "mpirun must fail when a rank is killed";
  }
  return killed;
}

class FaultTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TempDir;
    config_ = *folder_ / "fault.yaml";
    write_file_atomically(config_, kPipeline);
    const testing::ProcessResult result =
        testing::run_process(command_for(config_, undisturbed()), {}, testing::source_dir());
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  static void TearDownTestSuite() { delete folder_; }

  static fs::path undisturbed() { return *folder_ / "undisturbed"; }

  static void finish_and_compare(const fs::path& out) {
    const testing::ProcessResult result = testing::run_process(command_for(config_, out), {}, testing::source_dir());
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const auto expected = testing::losses_of(newest(undisturbed() / "train" / "attempts", "") / "metrics.jsonl");
    const auto actual = testing::losses_of(newest(out / "train" / "attempts", "") / "metrics.jsonl");
    ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
    EXPECT_EQ(expected, actual) << "losses of an undisturbed and a killed run differ";
    EXPECT_FALSE(weights(out).empty());
    EXPECT_EQ(weights(undisturbed()), weights(out)) << "final weights differ";
  }

  static testing::TempDir* folder_;
  static fs::path config_;
};
testing::TempDir* FaultTest::folder_ = nullptr;
fs::path FaultTest::config_;

TEST_F(FaultTest, KilledAtRandomStepsItResumesBitForBit) {
  const fs::path out = *folder_ / "killed";
  CounterRng rng(20261124, kStreamTest);
  for (int trial = 0; trial < 3; ++trial) {
    const auto step = static_cast<int64_t>(1 + trial * 7 + rng.below(6));
    const int victim = static_cast<int>(rng.below(kRanks));
    const auto reached = [&] {
      const auto done = testing::losses_of(newest(out / "train" / "attempts", "") / "metrics.jsonl");
      return !done.empty() && done.rbegin()->first >= step;
    };
    const bool killed = run_and_kill(config_, out, victim, reached);
    EXPECT_TRUE(killed) << "the run ended before step " << step;
    std::cout << "trial " << trial << ": killed rank process " << victim << " at step >= " << step << "\n";
  }
  finish_and_compare(out);
}

TEST_F(FaultTest, KilledInsideACheckpointItTakesTheOneBefore) {
  // The window between a shard and its manifest is short: on a loaded machine it may take more than one try to hit it.
  constexpr int kTries = 5;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    const fs::path out = *folder_ / ("killed-in-checkpoint-" + std::to_string(attempt));
    const auto half_written = [&] {
      std::error_code missing;
      for (const auto& entry : fs::directory_iterator(out / "train" / "checkpoints", missing)) {
        if (entry.path().filename().string() > "s00000006" && !fs::exists(entry.path() / "MANIFEST.json")) return true;
      }
      return false;
    };
    if (!run_and_kill(config_, out, 0, half_written)) continue;
    std::cout << "killed inside a checkpoint at try " << attempt + 1 << "\n";
    finish_and_compare(out);
    return;
  }
  FAIL() << "no checkpoint was seen half-written in " << kTries << " runs";
}

TEST(CollectiveTimeoutTest, ARankThatStandsStillEndsARunWithoutACoordinator) {
  const testing::TempDir folder;
  const std::string root = testing::source_dir();
  write_file_atomically(folder / "job.yaml",
                        "apiVersion: moe/v1\nkind: Job\nname: train\n"
                        "train: {input: " +
                            root +
                            "/examples/base-7m, steps: 100000, sequence_length: 128,\n"
                            "        micro_batch_rows: 2, checkpoint_every: 0,\n"
                            "        data: [{path: " +
                            root + "/examples/data/maths.train.jsonl, max_documents: 50}]}\n");
  const fs::path out = folder / "out";
  std::atomic<bool> has_ended{false};
  std::thread stopper([&] {
    while (!has_ended && testing::losses_of(out / "train/attempts/0001/metrics.jsonl").size() < 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const std::vector<pid_t> ranks = testing::rank_processes(out);
    ASSERT_EQ(ranks.size(), 2U);
    kill(ranks[1], SIGSTOP);
  });
  const testing::ProcessResult result = testing::run_process(
      testing::worker_command(2, {"run", folder / "job.yaml", "--out", out.string(), "--collective-timeout", "2"}));
  has_ended = true;
  stopper.join();
  EXPECT_EQ(result.exit_code, 86) << result.err;
  EXPECT_NE(result.err.find("no answer within 2000 ms in "), std::string::npos) << result.err;
}

}  // namespace
}  // namespace moe
