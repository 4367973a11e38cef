// A gang without a job costs next to nothing, also when it has had one.

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "service/cluster.h"

namespace moe {
namespace {

using std::chrono::seconds;
using testing::Cluster;

constexpr int kRanks = 2;
constexpr seconds kMeasured{5};
/// Of one core, all ranks together.
constexpr double kMostShare = 0.02;

/// User and system time of a process so far.
double cpu_seconds(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  std::istringstream rest(line.substr(line.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) rest >> skipped;
  double user = 0, system = 0;
  rest >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double share_of_a_core(const std::vector<pid_t>& ranks) {
  const auto total = [&] {
    double sum = 0;
    for (const pid_t rank : ranks) sum += cpu_seconds(rank);
    return sum;
  };
  const auto begun = std::chrono::steady_clock::now();
  const double before = total();
  std::this_thread::sleep_for(kMeasured);
  return (total() - before) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

TEST(IdleGangTest, UsesLessThanTwoPercentOfACore) {
  Cluster cluster;
  const auto gang = cluster.start_gang(kRanks, "a");
  ASSERT_TRUE(testing::eventually(seconds(20), [&] {
    return gang->output().find("event=gang_ready") != std::string::npos;
  })) << gang->output();
  const std::vector<pid_t> ranks = Cluster::ranks_of(*gang, kRanks);
  ASSERT_EQ(ranks.size(), static_cast<size_t>(kRanks));
  std::this_thread::sleep_for(seconds(1));  // the start is behind it
  ASSERT_GT(cpu_seconds(ranks[0]), 0);
  const double fresh = share_of_a_core(ranks);
  ASSERT_EQ(cluster.wait_for(cluster.submit(testing::small_pipeline("before", 4, kRanks, 11, /*evaluates=*/true)), 60),
            "SUCCEEDED")
      << gang->output();
  std::this_thread::sleep_for(seconds(1));
  const double after_a_job = share_of_a_core(ranks);
  std::cout << kRanks << " idle ranks together: " << 100 * fresh << " % of a core when fresh, " << 100 * after_a_job
            << " % after a job, over " << kMeasured.count() << " s each\n";
  EXPECT_LT(fresh, kMostShare);
  EXPECT_LT(after_a_job, kMostShare);
  EXPECT_TRUE(gang->is_running());
}

}  // namespace
}  // namespace moe
