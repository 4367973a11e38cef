// A real Prometheus with the shipped scrape config watches a real run: what a dashboard needs is there, under the right
// labels.

#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>
#include <optional>
#include <set>

#include "common/file_io.h"
#include "metrics/promtool.h"
#include "service/web.h"
#include "testing/free_port.h"
#include "testing/paths.h"

namespace moe {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using testing::Cluster;
using testing::eventually;

constexpr int kSteps = 50;
constexpr int kRanks = 2;
constexpr size_t kLayers = 6;
constexpr size_t kExperts = 8;

/// The text with `from` replaced everywhere; it must be there.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  EXPECT_NE(text.find(from), std::string::npos) << "deploy/prometheus.yaml no longer says " << from;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// Prometheus on a free port, its data in the cluster's folder.
class Prometheus {
 public:
  explicit Prometheus(const Cluster& cluster) : url_("http://127.0.0.1:" + std::to_string(port_)) {
    std::string config = read_file(testing::source_dir() + "/deploy/prometheus.yaml");
    config = replaced(config, "127.0.0.1:9090", cluster.http().substr(std::string("http://").size()));
    config = replaced(config, "scrape_interval: 5s", "scrape_interval: 1s");
    config = replaced(config, "scrape_timeout: 4s", "scrape_timeout: 1s");
    config = replaced(config, "refresh_interval: 5s", "refresh_interval: 1s");
    const std::filesystem::path file = cluster.folder() / "prometheus.yaml";
    write_file_atomically(file, config);
    process_.emplace(
        std::vector<std::string>{"prometheus", "--config.file=" + file.string(),
                                 "--storage.tsdb.path=" + (cluster.folder() / "tsdb").string(),
                                 "--web.listen-address=127.0.0.1:" + std::to_string(port_), "--log.level=warn"},
        cluster.folder() / "prometheus.log");
  }

  bool is_ready() const {
    httplib::Client client(url_);
    const httplib::Result result = client.Get("/-/ready");
    return result && result->status == 200;
  }

  json query(const std::string& expression) const {
    const json answer = json::parse(testing::fetch(url_, "/api/v1/query", {{"query", expression}}).body);
    EXPECT_EQ(answer["status"], "success") << expression << ": " << answer.dump();
    return answer["data"]["result"];
  }

  json targets() const { return json::parse(testing::fetch(url_, "/api/v1/targets").body)["data"]["activeTargets"]; }
  std::string output() const { return process_->output(); }

 private:
  const int port_ = testing::free_port();
  const std::string url_;
  std::optional<testing::BackgroundProcess> process_;
};

/// Every sample that was scraped of these series, also of those that ended since.
json history(const Prometheus& prometheus, const std::string& selector) {
  return prometheus.query(selector + "[10m]");
}

std::set<std::string> values_of(const json& series, const std::string& label) {
  std::set<std::string> values;
  for (const json& one : series) values.insert(one["metric"].value(label, ""));
  return values;
}

double last_value(const json& series) {
  return std::stod(series["values"].back()[1].get<std::string>());
}

class PrometheusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* program : {"prometheus", "promtool"}) {
      if (!testing::is_installed(program))
        GTEST_SKIP() << program << " is not installed (Debian package prometheus; bash deploy/install_deps.sh --peers)";
    }
  }

  /// The series have data, and say whose they are: rank, node and gang by discovery, job and stage by the worker.
  static void expect_worker_labels(const json& series, const std::string& name, const std::string& gang,
                                   const std::string& job) {
    ASSERT_FALSE(series.empty()) << name << " has no data";
    for (const json& one : series) {
      const json& labels = one["metric"];
      EXPECT_EQ(labels["job"], "moe-worker") << labels.dump();
      EXPECT_EQ(labels["gang_id"], gang) << labels.dump();
      EXPECT_EQ(labels["instance"], gang + "/" + labels["rank"].get<std::string>()) << labels.dump();
      EXPECT_FALSE(labels.value("node", "").empty()) << labels.dump();
      EXPECT_EQ(labels["job_id"], job) << labels.dump();
      EXPECT_EQ(labels["stage"], "train") << labels.dump();
    }
  }

  /// A step is trained once: the gauge never falls, and the counter of steps agrees with it.
  static void expect_no_step_twice(const json& steps, const json& counted) {
    double before = 0;
    for (const json& sample : steps[0]["values"]) {
      const double step = std::stod(sample[1].get<std::string>());
      EXPECT_GE(step, before);
      before = step;
    }
    EXPECT_LE(before, kSteps);
    // A step may end while the page is being written.
    EXPECT_NEAR(last_value(counted[0]), before, 1);
  }
};

TEST_F(PrometheusTest, TheShippedConfigIsValid) {
  const testing::ProcessResult result =
      testing::run_process({"promtool", "check", "config", testing::source_dir() + "/deploy/prometheus.yaml"});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
}

TEST_F(PrometheusTest, ScrapesCoordinatorAndBothRanksDuringARun) {
  Cluster cluster({.heartbeat_seconds = 1});
  const Prometheus prometheus(cluster);
  const auto gang = cluster.start_gang(kRanks, "a");
  ASSERT_TRUE(eventually(seconds(20), [&] { return testing::discovered_ranks(cluster).size() == kRanks; }))
      << gang->output();
  const json ranks = testing::discovered_ranks(cluster);
  const std::string gang_id = ranks[0]["labels"]["gang_id"];
  ASSERT_TRUE(eventually(seconds(20), [&] { return prometheus.is_ready(); })) << prometheus.output();
  ASSERT_TRUE(eventually(seconds(20), [&] { return prometheus.query("up == 1").size() == kRanks + 1; }))
      << prometheus.query("up").dump(1);
  const std::string pipeline =
      cluster.submit(testing::small_pipeline("watched", kSteps, kRanks, 11, /*evaluates=*/true));
  const std::string job = pipeline + "-train";
  ASSERT_TRUE(testing::reaches_step(cluster, job, 4, seconds(40))) << gang->output();

  // Live: everybody is up, the pages are clean, the state is RUNNING.
  EXPECT_EQ(prometheus.query("up{job=\"moe-coordinator\"} == 1").size(), 1U);
  EXPECT_EQ(values_of(prometheus.query("up{job=\"moe-worker\"} == 1"), "rank"),
            (std::set<std::string>{"0000", "0001"}));
  const std::string page = testing::fetch(cluster.http(), "/metrics").body;
  EXPECT_NE(page.find("moe_job_state{job_id=\"" + job + "\"} 4"), std::string::npos) << page;
  EXPECT_EQ(testing::promtool_complaints(page), "") << "coordinator";
  for (const json& rank : ranks) {
    const std::string worker_page = testing::fetch("http://" + rank["targets"][0].get<std::string>(), "/metrics").body;
    EXPECT_NE(worker_page.find("moe_worker_step{job_id=\"" + job + "\",stage=\"train\"}"), std::string::npos)
        << worker_page;
    for (const char* label : {"{gang_id=", ",gang_id=", "{rank=", ",rank=", "{node=", ",node="}) {
      EXPECT_EQ(worker_page.find(label), std::string::npos) << label << " is left to discovery";
    }
    EXPECT_EQ(testing::promtool_complaints(worker_page), "") << rank.dump();
  }
  const json beat = prometheus.query("time() - moe_gang_last_heartbeat_timestamp_seconds{gang_id=\"" + gang_id + "\"}");
  ASSERT_EQ(beat.size(), 1U);
  EXPECT_LT(std::stod(beat[0]["value"][1].get<std::string>()), 10) << "the heartbeat that Prometheus sees is old";

  ASSERT_EQ(cluster.wait_for(pipeline, 100), "SUCCEEDED") << gang->output();
  EXPECT_TRUE(eventually(seconds(5), [&] {
    return prometheus.query("moe_job_state{job_id=\"" + job + "\"} == 7").size() == 1;
  })) << prometheus.query("moe_job_state").dump(1);

  EXPECT_EQ(cluster.job(job)["progress"]["step"], std::to_string(kSteps)) << "the end is shown as the end";

  // What was seen of the run.
  const json steps = history(prometheus, "moe_train_step");
  for (const auto& [name, count] :
       std::map<std::string, size_t>{{"moe_train_loss", 3},
                                     {"moe_train_step", 1},
                                     {"moe_train_tokens_total", 1},
                                     {"moe_worker_step", kRanks},
                                     {"moe_expert_routed_tokens_total", kLayers * kExperts}}) {
    const json series = history(prometheus, name);
    EXPECT_EQ(series.size(), count) << name;
    expect_worker_labels(series, name, gang_id, job);
    for (const json& one : series) EXPECT_GT(last_value(one), 0) << one["metric"].dump();
  }
  EXPECT_EQ(values_of(history(prometheus, "moe_train_loss"), "component"),
            (std::set<std::string>{"aux", "lm", "total"}));
  EXPECT_EQ(values_of(history(prometheus, "moe_worker_step"), "rank"), (std::set<std::string>{"0000", "0001"}));
  const json routed = history(prometheus, "moe_expert_routed_tokens_total");
  EXPECT_EQ(values_of(routed, "layer").size(), kLayers);
  EXPECT_EQ(values_of(routed, "expert").size(), kExperts);
  EXPECT_EQ(values_of(routed, "rank"), std::set<std::string>{"0000"}) << "from the leader only";
  expect_no_step_twice(steps, history(prometheus, "moe_train_steps_total"));
  const json points = cluster.moectl_json({"metrics", job, "--name", "loss"})["points"];
  ASSERT_EQ(points.size(), static_cast<size_t>(kSteps));
  for (int step = 1; step <= kSteps; ++step) EXPECT_EQ(points[step - 1]["step"], std::to_string(step));
  std::cout << steps[0]["values"].size() << " scrapes of the run, last step seen " << last_value(steps[0]) << " of "
            << kSteps << ", " << routed.size() << " series of routed tokens\n";
  for (const json& target : prometheus.targets()) EXPECT_EQ(target["lastError"], "") << target.dump(1);

  // A gang that leaves is no target any more.
  gang->signal(SIGUSR1);
  EXPECT_TRUE(eventually(seconds(20), [&] { return prometheus.targets().size() == 1; }))
      << prometheus.targets().dump(1);
}

}  // namespace
}  // namespace moe
