// `moe-worker run` under mpirun on simulated GPUs, one a rank: what the CPU's ranks make of the same file, up to the
// rounding of sums. It is the program itself, linked again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_lines.h"
#include "testing/background_process.h"
#include "testing/paths.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr double kTolerance = 1e-5;

class DeviceRunTest : public ::testing::Test {
 protected:
  DeviceRunTest() {
    testing::write_tiny_model(folder_ / "dense", testing::tiny_config(), 1, at::kFloat);
    testing::write_random_documents(folder_ / "text.jsonl", 60, 10, 40, 61, 1);
    const std::string data = concat("data: [{path: ", (folder_ / "text.jsonl").string(), "}]");
    write_file_atomically(
        folder_ / "run.yaml",
        concat("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: ", (folder_ / "dense").string(),
               "}}\nstages:\n"
               "  - name: convert\n    convert: {input: dense, ffn: {method: independent_random, "
               "experts: 4, top_k: 2}, calibration: {tokens: 256, ",
               data,
               "}}\n  - name: train\n    train: {input: convert.model, steps: 2, sequence_length: "
               "24, micro_batch_rows: 4, checkpoint_every: 1, ",
               data,
               "}\n  - name: evaluate\n    evaluate: {input: train.model, max_tokens: 60, "
               "sequence_length: 24, ",
               data, "}\n"));
  }

  static std::vector<std::string> words(const std::string& program, const fs::path& file, const fs::path& out,
                                        int ranks, std::vector<std::string> more) {
    std::vector<std::string> words{"bash",      testing::source_dir() + "/deploy/gang.sh",
                                   "--ranks",   std::to_string(ranks),
                                   "--threads", "1",
                                   "--once",    "--",
                                   program,     "run",
                                   file,        "--out",
                                   out};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  /// `collectives`: of GPUs.
  fs::path run(const std::string& device, int ranks, int expert_parallel, const std::string& collectives = "nccl",
               const std::string& dtype = "float32") const {
    const fs::path out = folder_ / concat(device, ranks, expert_parallel, collectives, dtype);
    const fs::path program =
        fs::path(testing::build_dir()) / (device == "cuda" ? "bin/cuda_torch" : "bin") / "moe-worker";
    const testing::ProcessResult ran =
        testing::run_process(words(program, folder_ / "run.yaml", out, ranks,
                                   {"--set", concat("defaults.gang.expert_parallel=", expert_parallel), "--set",
                                    "defaults.gang.device=" + device, "--set", "defaults.gang.dtype=" + dtype,
                                    "--collectives", collectives}),
                             {{"MOE_CUDA_HOST_DEVICES", collectives == "nccl" ? std::to_string(ranks) : "1"}});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    return out;
  }

  /// Losses of the two steps and of the evaluation, relative to what is expected; in one type experts get the same
  /// tokens.
  static void expect_near(const fs::path& out, const fs::path& wanted, double tolerance, bool in_one_type = true) {
    const std::vector<json> expected = read_json_lines(wanted / "metrics.jsonl"),
                            found = read_json_lines(out / "metrics.jsonl");
    ASSERT_EQ(found.size(), expected.size());
    int steps = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!expected[i].contains("loss")) continue;
      ++steps;
      if (in_one_type) {
        EXPECT_EQ(found[i]["expert_load"], expected[i]["expert_load"]);
      }
      const auto loss = expected[i]["loss"].get<double>();
      EXPECT_NEAR(found[i]["loss"].get<double>(), loss, tolerance * loss);
    }
    EXPECT_EQ(steps, 2);
    const auto evaluated = [](const fs::path& of) {
      return json::parse(read_file(of / "summary.json"))["stages"][2]["metrics"]["loss"].get<double>();
    };
    EXPECT_NEAR(evaluated(out), evaluated(wanted), tolerance * evaluated(wanted));
  }

  testing::TempDir folder_;
};

TEST_F(DeviceRunTest, APipelineGivesWhatItGivesOnTheCpu) {
  for (const auto& [ranks, expert_parallel, collectives] :
       {std::tuple{1, 1, "nccl"}, {2, 1, "nccl"}, {2, 2, "nccl"}, {2, 2, "staged"}, {4, 2, "nccl"}}) {
    SCOPED_TRACE(concat(ranks, " ranks, expert parallelism ", expert_parallel, ", ", collectives));
    const fs::path cpu = run("cpu", ranks, expert_parallel, collectives),
                   cuda = run("cuda", ranks, expert_parallel, collectives);
    if (HasFailure()) return;
    expect_near(cuda, cpu, kTolerance);
  }
}

TEST_F(DeviceRunTest, InBfloat16APipelineIsNearFloat32) {
  const fs::path cpu = run("cpu", 2, 2), cuda = run("cuda", 2, 2, "nccl", "bfloat16");
  if (HasFailure()) return;
  expect_near(cuda, cpu, 2e-2, /*in_one_type=*/false);
}

TEST_F(DeviceRunTest, MoreRanksThanGpusAreRefusedWithNccl) {
  const testing::ProcessResult ran =
      testing::run_process(words(testing::build_dir() + "/bin/cuda_torch/moe-worker", folder_ / "run.yaml",
                                 folder_ / "none", 2, {"--set", "defaults.gang.device=cuda"}),
                           {{"MOE_CUDA_HOST_DEVICES", "1"}});
  EXPECT_EQ(ran.exit_code, 65);
  EXPECT_THAT(ran.err, HasSubstr("ranks 0 and 1 come to the same GPU (00000000000000000000000000000000), and NCCL "
                                 "gives each rank one of its own"));
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

/// As launchers do that give each rank a GPU: all are number 0 to their ranks, and none is the same.
TEST_F(DeviceRunTest, RanksThatSeeOneGpuEachAreServedByNccl) {
  const std::string program = testing::build_dir() + "/bin/cuda_torch/moe-worker";
  std::vector<std::string> command =
      words("bash", folder_ / "run.yaml", folder_ / "own", 2, {"--set", "defaults.gang.device=cuda"});
  const auto run = std::find(command.begin(), command.end(), "run");
  command.insert(run, {"-c", "CUDA_VISIBLE_DEVICES=$OMPI_COMM_WORLD_LOCAL_RANK exec " + program + " \"$@\"", "bash"});
  const testing::ProcessResult ran = testing::run_process(command, {{"MOE_CUDA_HOST_DEVICES", "2"}});
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.err, AllOf(HasSubstr("event=cuda_opened gpu=\"CUDA without a card\""), HasSubstr(" nccl=2.")));
}

TEST_F(DeviceRunTest, WithoutAGpuOneErrorSaysWhatIsMissing) {
  const testing::ProcessResult ran =
      testing::run_process({testing::build_dir() + "/bin/cuda_torch/moe-worker", "run", folder_ / "run.yaml", "--out",
                            folder_ / "none", "--set", "defaults.gang.device=cuda"},
                           {{"MOE_CUDA_HOST_DEVICES", "0"}});
  EXPECT_EQ(ran.exit_code, 71);
  EXPECT_THAT(ran.err, HasSubstr("this machine shows no CUDA device"));
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

TEST_F(DeviceRunTest, AGpuThatIsTooSmallIsTheMachinesFault) {
  const testing::ProcessResult ran =
      testing::run_process({testing::build_dir() + "/bin/cuda_torch/moe-worker", "run", folder_ / "run.yaml", "--out",
                            folder_ / "small", "--set", "defaults.gang.device=cuda"},
                           {{"MOE_CUDA_HOST_MEMORY", "0"}});
  EXPECT_EQ(ran.exit_code, 71) << ran.err;
  EXPECT_THAT(ran.err, AllOf(HasSubstr("CUDA out of memory"), HasSubstr("fewer micro_batch_rows")));
  EXPECT_TRUE(fs::exists(folder_ / "small/convert/output-t0001/STAGE.json")) << "what was done on the CPU stays";
}

/// A rank that stands still: the other one's collective on the GPU passes its limit, and both end.
TEST_F(DeviceRunTest, ARankThatStandsStillEndsTheGangByNccl) {
  std::vector<std::string> command = words(
      testing::build_dir() + "/bin/cuda_torch/moe-worker", folder_ / "run.yaml", folder_ / "hang", 2,
      {"--set", "defaults.gang.device=cuda", "--set", "stages.train.train.steps=100000", "--collective-timeout", "5"});
  testing::BackgroundProcess gang(command, folder_ / "hang.log", {{"MOE_CUDA_HOST_DEVICES", "2"}});
  const fs::path lines = folder_ / "hang/train/attempts/0001/metrics.jsonl";
  ASSERT_TRUE(testing::eventually(std::chrono::seconds(120), [&] {
    return !gang.is_running() || (fs::exists(lines) && fs::file_size(lines) > 0);
  }));
  const std::vector<pid_t> ranks =
      testing::descendants(gang.pid(), testing::build_dir() + "/bin/cuda_torch/moe-worker");
  ASSERT_EQ(ranks.size(), 2U) << gang.output();
  ASSERT_EQ(kill(ranks[1], SIGSTOP), 0);
  EXPECT_EQ(gang.wait(std::chrono::seconds(60)), 86) << gang.output();
  EXPECT_THAT(gang.output(), HasSubstr("no answer within 5000 ms"));
}

TEST_F(DeviceRunTest, ALibraryThatIsNotThereIsNamed) {
  const testing::ProcessResult ran =
      testing::run_process({testing::worker_path(), "run", folder_ / "run.yaml", "--out", folder_ / "none", "--set",
                            "defaults.gang.device=cuda", "--cuda-library", folder_ / "no.so"});
  EXPECT_EQ(ran.exit_code, 71);
  EXPECT_THAT(ran.err, HasSubstr((folder_ / "no.so").string()));
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

}  // namespace
}  // namespace moe
