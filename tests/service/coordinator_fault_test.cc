// The coordinator is killed at random instants while pipelines run: each finishes, and each stage was committed once.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "service/cluster.h"
#include "testing/full_run.h"

namespace moe {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::Cluster;

const int kKills = testing::sized(8, 20);
constexpr unsigned kSeed = 20261124;

TEST(CoordinatorFaultTest, KilledAtRandomInstantsEveryPipelineFinishesOnce) {
  Cluster cluster({.lease_seconds = 2, .heartbeat_seconds = 0.2});
  const auto gang = cluster.start_gang(2, "a", /*restarting=*/true);
  std::mt19937 random(kSeed);
  std::vector<std::string> pipelines;
  for (int i = 0; i < 2; ++i)
    pipelines.push_back(cluster.submit(testing::small_pipeline("p" + std::to_string(i), 6, 2, i, /*evaluates=*/true)));
  int kills = 0;
  while (kills < kKills) {
    std::this_thread::sleep_for(milliseconds(std::uniform_int_distribution<int>(50, 1500)(random)));
    cluster.kill_coordinator();
    ++kills;
    std::this_thread::sleep_for(milliseconds(std::uniform_int_distribution<int>(0, 300)(random)));
    cluster.start_coordinator();
    bool all_ended = true;
    for (const std::string& id : pipelines)
      all_ended = all_ended && cluster.moectl_json({"describe", id})["phase"] != "RUNNING";
    // There is always something to disturb.
    if (all_ended)
      pipelines.push_back(cluster.submit(testing::small_pipeline("more" + std::to_string(kills), 6, 2, kills, true)));
  }
  std::cout << kills << " kills, seed " << kSeed << ", " << pipelines.size() << " pipelines\n";
  for (const std::string& id : pipelines) {
    ASSERT_EQ(cluster.wait_for(id, 180), "SUCCEEDED") << cluster.moectl({"describe", id}).out << gang->output();
    std::map<std::string, int> succeeded;
    const std::string events = cluster.moectl({"watch", id, "--no-follow", "-o", "json"}).out;
    for (size_t line = 0; line < events.size();) {
      const size_t end = std::min(events.find('\n', line), events.size());
      const json event = json::parse(events.substr(line, end - line));
      if (event["type"] == "SUCCEEDED" && !event["job_id"].get<std::string>().empty()) ++succeeded[event["job_id"]];
      line = end + 1;
    }
    EXPECT_EQ(succeeded.size(), 3U) << events;
    for (const auto& [job, times] : succeeded) EXPECT_EQ(times, 1) << job;
    const json artifacts = cluster.moectl_json({"get", "artifacts", "--pipeline", id});
    EXPECT_EQ(artifacts["artifacts"].size(), 3U) << artifacts.dump(1);
  }
}

}  // namespace
}  // namespace moe
