// A gang of `moe-worker serve --device cuda` on simulated GPUs, one a rank, with a real coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/error.h"
#include "service/cluster.h"
#include "service/web.h"
#include "testing/paths.h"
#include "testing/tiny_files.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

using nlohmann::json;
using testing::Cluster;
using ::testing::HasSubstr;

constexpr int kRanks = 2, kSteps = 12;

class DeviceServeTest : public ::testing::Test {
 protected:
  DeviceServeTest()
      : worker_(testing::build_dir() + "/bin/cuda_torch/moe-worker"),
        cluster_({.lease_seconds = 60,
                  .worker = worker_,
                  .serve_arguments = {"--device", "cuda"},
                  .environment = {{"MOE_CUDA_HOST_DEVICES", std::to_string(kRanks)}}}) {
    testing::write_tiny_model(cluster_.folder() / "dense", testing::tiny_config(), 1, at::kFloat);
    testing::write_random_documents(cluster_.folder() / "text.jsonl", 60, 10, 40, 61, 1);
  }

  std::string pipeline(const std::string& device) const {
    const std::string data = concat("data: [{path: ", (cluster_.folder() / "text.jsonl").string(), "}]");
    return concat("apiVersion: moe/v1\nkind: Pipeline\nname: small\ninputs: {dense: {path: ",
                  (cluster_.folder() / "dense").string(), "}}\ndefaults: {gang: {ranks: ", kRanks,
                  ", expert_parallel: ", kRanks, ", device: ", device,
                  "}}\nstages:\n"
                  "  - name: convert\n    convert: {input: dense, ffn: {method: independent_random, experts: 4, top_k: "
                  "2}, calibration: {tokens: 256, ",
                  data,
                  "}}\n"
                  "  - name: train\n    train: {input: convert.model, sequence_length: 24, micro_batch_rows: 4, "
                  "checkpoint_every: 2, steps: ",
                  kSteps, ", ", data, "}\n");
  }

  std::string worker_;
  Cluster cluster_;
};

TEST_F(DeviceServeTest, AJobOfAGpuGoesOnAfterADeath) {
  const auto gang = cluster_.start_gang(kRanks, "a", /*restarting=*/true);
  const std::string id = cluster_.submit(pipeline("cuda"));
  ASSERT_TRUE(testing::reaches_step(cluster_, id + "-train", 5, std::chrono::seconds(120))) << gang->output();
  const json ranks = testing::discovered_ranks(cluster_);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  EXPECT_THAT(testing::fetch("http://" + ranks[1]["targets"][0].get<std::string>(), "/metrics").body,
              HasSubstr("gpu=\"CUDA without a card\""));
  const std::vector<pid_t> processes = Cluster::ranks_of(*gang, kRanks, worker_);
  ASSERT_EQ(processes.size(), static_cast<size_t>(kRanks));
  ASSERT_EQ(kill(processes[1], SIGKILL), 0);
  ASSERT_EQ(cluster_.wait_for(id, 180), "SUCCEEDED") << gang->output();
  const json job = cluster_.job(id + "-train");
  EXPECT_EQ(job["attempt"], 2) << job.dump(1);
  const json points = cluster_.moectl_json({"metrics", id + "-train", "--name", "loss"})["points"];
  EXPECT_EQ(points.size(), static_cast<size_t>(kSteps)) << "each step once";
}

TEST_F(DeviceServeTest, AJobOfTheCpuWaitsForAnotherGang) {
  const auto gang = cluster_.start_gang(kRanks, "a");
  const std::string id = cluster_.submit(pipeline("cpu"));
  const auto shown = [&] { return cluster_.moectl({"describe", id + "-convert"}).out; };
  ASSERT_TRUE(testing::eventually(std::chrono::seconds(20), [&] {
    return shown().find("2 cuda") != std::string::npos;
  })) << shown();
  EXPECT_THAT(shown(), HasSubstr("needs a gang of 2 cpu ranks"));
}

}  // namespace
}  // namespace moe
