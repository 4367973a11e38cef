// Gangs that die, stand still, are asked to leave or lose their coordinator: the job goes on elsewhere and its result
// is that of an undisturbed run, bit for bit.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <iostream>

#include "common/file_io.h"
#include "service/cluster.h"
#include "testing/training_results.h"

namespace moe {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using testing::BackgroundProcess;
using testing::Cluster;
using testing::eventually;

constexpr int kSteps = 40;
constexpr int kRanks = 2;
constexpr int kEndWithin = 150;  // seconds, on a machine that others use too

struct Result {
  std::map<int64_t, std::string> losses;
  std::map<std::string, std::string> weights;
};

class GangFaultTest : public ::testing::Test {
 protected:
  static std::string train_job(const std::string& pipeline) { return pipeline + "-train"; }

  static Result result_of(const Cluster& cluster, const std::string& pipeline) {
    const json job = cluster.job(train_job(pipeline));
    EXPECT_EQ(job["state"], "JOB_STATE_SUCCEEDED") << job.dump(1);
    const std::filesystem::path output = cluster.data_root() / job["output_path"].get<std::string>();
    char attempt[16];
    std::snprintf(attempt, sizeof attempt, "%04d", job["attempt"].get<int>());
    return {testing::losses_of(cluster.data_root() / train_job(pipeline) / "attempts" / attempt / "metrics.jsonl"),
            testing::weights_of(output)};
  }

  static Result run_without_disturbance(Cluster& cluster) {
    const std::string id = cluster.submit(testing::small_pipeline("undisturbed", kSteps, kRanks));
    EXPECT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED");
    return result_of(cluster, id);
  }

  /// What the training gives when nothing happens: the same in every cluster, so one run serves all cases.
  static const Result& undisturbed(Cluster& cluster) {
    static const Result result = run_without_disturbance(cluster);
    return result;
  }

  static void expect_same(const Result& expected, const Result& actual) {
    EXPECT_EQ(expected.losses.size(), static_cast<size_t>(kSteps));
    EXPECT_EQ(expected.losses, actual.losses) << "losses by step differ";
    EXPECT_FALSE(expected.weights.empty());
    EXPECT_EQ(expected.weights, actual.weights) << "final weights differ";
  }

  /// Waits until the training has reported at least this step.
  static bool reaches_step(const Cluster& cluster, const std::string& pipeline, int64_t step) {
    return testing::reaches_step(cluster, train_job(pipeline), step, seconds(kEndWithin));
  }

  /// Every step once in what the coordinator keeps.
  static void expect_steps_once(const Cluster& cluster, const std::string& pipeline) {
    const json points = cluster.moectl_json({"metrics", train_job(pipeline), "--name", "loss"});
    ASSERT_TRUE(points.contains("points")) << points.dump();
    int64_t expected = 1;
    for (const json& point : points["points"]) EXPECT_EQ(std::stoll(point["step"].get<std::string>()), expected++);
    EXPECT_EQ(expected, kSteps + 1);
  }

  static bool has_event(const Cluster& cluster, const std::string& pipeline, const std::string& type,
                        const std::string& text) {
    const std::string events = cluster.moectl({"watch", pipeline, "--no-follow"}).out;
    size_t line = 0;
    while (line < events.size()) {
      const size_t end = events.find('\n', line);
      const std::string one = events.substr(line, end - line);
      if (one.find(type) != std::string::npos && one.find(text) != std::string::npos) return true;
      if (end == std::string::npos) break;
      line = end + 1;
    }
    return false;
  }
};

TEST_F(GangFaultTest, KilledRankIsReplacedAtOnceAndTheBitsAreTheSame) {
  Cluster cluster({.lease_seconds = 60});  // so long that no expiry can be what requeues
  const auto gang = cluster.start_gang(kRanks, "a", /*restarting=*/true);
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("killed", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 12));
  const std::vector<pid_t> ranks = Cluster::ranks_of(*gang, kRanks);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  const auto killed = std::chrono::steady_clock::now();
  ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
  ASSERT_TRUE(eventually(seconds(30), [&] {
    return cluster.job(train_job(id))["attempt"].get<int>() >= 2 ||
           cluster.job(train_job(id))["state"] == "JOB_STATE_QUEUED";
  })) << cluster.job(train_job(id)).dump(1);
  std::cout << "requeued " << std::chrono::duration<double>(std::chrono::steady_clock::now() - killed).count()
            << " s after the kill\n";
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << gang->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
  const json first = cluster.job(train_job(id))["attempts"][0];
  EXPECT_NE(first["outcome"], "ATTEMPT_OUTCOME_SUCCEEDED");
  EXPECT_NE(first.value("message", "").find("rank 1"), std::string::npos) << first.dump();
}

TEST_F(GangFaultTest, KilledLeaderIsReplacedAndItsExitCodeIsTold) {
  Cluster cluster({.lease_seconds = 60});
  const auto gang = cluster.start_gang(kRanks, "a", /*restarting=*/true);
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("killed-leader", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 8));
  const std::vector<pid_t> ranks = Cluster::ranks_of(*gang, kRanks);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  ASSERT_EQ(kill(ranks[0], SIGKILL), 0);
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << gang->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
  const std::string message = cluster.job(train_job(id))["attempts"][0].value("message", "");
  EXPECT_NE(message.find("ended with exit code 137 (signal 9) and was started again"), std::string::npos) << message;
}

TEST_F(GangFaultTest, GangThatIsToldToEndGivesItsJobBackAtOnce) {
  Cluster cluster({.lease_seconds = 60});
  auto gang = cluster.start_gang(kRanks, "a");
  const std::string id = cluster.submit(testing::small_pipeline("told-to-end", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 2));
  gang->signal(SIGTERM);  // gang.sh --once is mpirun itself
  ASSERT_TRUE(gang->wait(seconds(30)).has_value()) << gang->output();
  ASSERT_TRUE(eventually(seconds(20), [&] { return cluster.job(train_job(id))["state"] == "JOB_STATE_QUEUED"; }))
      << cluster.job(train_job(id)).dump(1);
  const std::string message = cluster.job(train_job(id))["attempts"][0].value("message", "");
  EXPECT_EQ(message, "the gang left: its leader was told to end (SIGTERM)");
}

TEST_F(GangFaultTest, StoppedLeaderLosesItsJobAndIsFenced) {
  Cluster cluster({.lease_seconds = 2});
  auto gang = cluster.start_gang(kRanks, "a");
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("stopped-leader", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 8));
  const std::vector<pid_t> ranks = Cluster::ranks_of(*gang, kRanks);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  ASSERT_EQ(kill(ranks[0], SIGSTOP), 0);
  const auto other = cluster.start_gang(kRanks, "b");
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << other->output();
  const auto digests = [&] {
    return std::pair(result_of(cluster, id), cluster.job(train_job(id))["checkpoints"].dump());
  };
  const auto before = digests();
  ASSERT_EQ(kill(ranks[0], SIGCONT), 0);
  const std::optional<int> code = gang->wait(seconds(60));
  ASSERT_TRUE(code.has_value()) << gang->output();
  EXPECT_EQ(*code, 76) << gang->output();
  EXPECT_NE(gang->output().find("fenced"), std::string::npos) << gang->output();
  const auto after = digests();
  EXPECT_EQ(before.second, after.second) << "the continued leader changed what is committed";
  EXPECT_EQ(before.first.weights, after.first.weights);
  EXPECT_EQ(cluster.job(train_job(id))["attempt"], 2);
  expect_same(expected, after.first);
  expect_steps_once(cluster, id);
}

TEST_F(GangFaultTest, StoppedRankIsNamedAndTheJobResumes) {
  Cluster cluster({.lease_seconds = 60, .hang_seconds = 3});
  auto gang = cluster.start_gang(kRanks, "a");
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("stopped-rank", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 8));
  const std::vector<pid_t> ranks = Cluster::ranks_of(*gang, kRanks);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  ASSERT_EQ(kill(ranks[1], SIGSTOP), 0);
  const std::optional<int> code = gang->wait(seconds(60));
  ASSERT_TRUE(code.has_value()) << gang->output();
  EXPECT_EQ(*code, 86) << gang->output();
  const std::string message = cluster.job(train_job(id))["attempts"][0].value("message", "");
  std::cout << "verdict: " << message << "\n";
  EXPECT_NE(message.find("rank 1 gives no sign of life"), std::string::npos) << message;
  EXPECT_NE(message.find("collective '"), std::string::npos) << message;
  const auto other = cluster.start_gang(kRanks, "b");
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << other->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
}

TEST_F(GangFaultTest, PreemptedGangSavesLeavesAndNothingIsCharged) {
  Cluster cluster({.lease_seconds = 60});
  auto gang = cluster.start_gang(kRanks, "a");
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("preempted", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 8));
  gang->signal(SIGUSR1);  // gang.sh --once is mpirun itself
  const std::optional<int> code = gang->wait(seconds(60));
  ASSERT_TRUE(code.has_value()) << gang->output();
  EXPECT_EQ(*code, 75) << gang->output();
  const json job = cluster.job(train_job(id));
  EXPECT_EQ(job["state"], "JOB_STATE_QUEUED");
  EXPECT_EQ(job["attempts"][0]["outcome"], "ATTEMPT_OUTCOME_RELEASED");
  EXPECT_EQ(job["failures"], 0);
  ASSERT_FALSE(job["checkpoints"].empty());
  const auto other = cluster.start_gang(kRanks, "b");
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << other->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
}

TEST_F(GangFaultTest, PauseTakesEffectWithinTwoStepsAndResumeGoesOn) {
  Cluster cluster({.lease_seconds = 60});
  const auto gang = cluster.start_gang(kRanks, "a");
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("paused", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 8));
  ASSERT_EQ(cluster.moectl({"pause", id}).exit_code, 0);
  ASSERT_EQ(cluster.moectl({"wait", train_job(id), "--for", "paused", "--timeout", "60"}).exit_code, 0);
  const json job = cluster.job(train_job(id));
  const auto saved = std::stoll(job["checkpoints"].back()["step"].get<std::string>());
  // The log says at which step the leader heard of it.
  const std::string log = read_file(cluster.data_root() / train_job(id) / "attempts" / "0001" / "logs" / "gang.log");
  const std::string key = "event=release_asked step=";
  ASSERT_NE(log.find(key), std::string::npos) << log;
  const int64_t heard = std::stoll(log.substr(log.find(key) + key.size()));
  std::cout << "heard at step " << heard << ", saved at step " << saved << "\n";
  EXPECT_LE(saved, heard + 2);
  const auto last_step =
      testing::losses_of(cluster.data_root() / train_job(id) / "attempts" / "0001" / "metrics.jsonl").rbegin()->first;
  EXPECT_EQ(saved, last_step) << "what was trained was saved";
  EXPECT_EQ(cluster.moectl_json({"describe", id})["phase"], "PAUSED");
  EXPECT_EQ(cluster.moectl({"pause", id}).exit_code, 0) << "it is paused already, which is what was asked for";
  ASSERT_EQ(cluster.moectl({"resume", id}).exit_code, 0);
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << gang->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
  EXPECT_TRUE(gang->is_running()) << "the gang serves on";
}

TEST_F(GangFaultTest, OrphanedGangSavesAndLeaves) {
  Cluster cluster({.lease_seconds = 3, .orphan_seconds = 3});
  auto gang = cluster.start_gang(kRanks, "a");
  const Result& expected = undisturbed(cluster);
  const std::string id = cluster.submit(testing::small_pipeline("orphaned", kSteps, kRanks));
  ASSERT_TRUE(reaches_step(cluster, id, 6));
  cluster.kill_coordinator();
  const std::optional<int> code = gang->wait(seconds(90));
  ASSERT_TRUE(code.has_value()) << gang->output();
  // Trained to the end without the coordinator, or saved before: in both cases it could not report and left.
  EXPECT_EQ(*code, 75) << gang->output();
  cluster.start_coordinator();
  const auto other = cluster.start_gang(kRanks, "b");
  ASSERT_EQ(cluster.wait_for(id, kEndWithin), "SUCCEEDED") << other->output();
  expect_same(expected, result_of(cluster, id));
  expect_steps_once(cluster, id);
}

TEST_F(GangFaultTest, AnotherJobBeforeLeavesNoTrace) {
  Cluster cluster;
  auto gang = cluster.start_gang(kRanks, "a");
  const Result& fresh = undisturbed(cluster);
  const std::string different =
      cluster.submit(testing::small_pipeline("different", 6, kRanks, /*seed=*/99, /*evaluates=*/true));
  ASSERT_EQ(cluster.wait_for(different, kEndWithin), "SUCCEEDED") << gang->output();
  const Result after_others = run_without_disturbance(cluster);
  expect_same(fresh, after_others);
  gang->signal(SIGUSR1);
  EXPECT_EQ(gang->wait(seconds(30)), 75);
}

}  // namespace
}  // namespace moe
