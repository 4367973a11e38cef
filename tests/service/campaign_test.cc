// A campaign of operators' mistakes against one coordinator, with real gangs: another data root, storage that is not
// mounted, a cloned launcher id, a dead idle gang, a second coordinator, a full share, ten bad gangs among two good
// ones, and a thousand ended pipelines before three living ones. No innocent job fails, and what users see is what the
// store says.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>
#include <random>
#include <regex>
#include <thread>

#include "common/data_root.h"
#include "moe/v1/job_service.grpc.pb.h"
#include "service/web.h"
#include "testing/free_port.h"
#include "testing/paths.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::seconds;
using ::testing::AllOf;
using testing::BackgroundProcess;
using testing::Cluster;
using testing::eventually;
using ::testing::HasSubstr;

constexpr unsigned kSeed = 20261128;
constexpr int kEnded = 1000;
constexpr int kLiving = 3;
constexpr int kBad = 10;

/// What a gang runs in: a folder below which examples/ is, or is not, and limits of its shell.
struct Machine {
  std::string folder = testing::source_dir();
  std::string setup{};
  std::string launcher_id{};
  fs::path data_root{};
};

/// The share is mounted at /proc/self/cwd: in the source folder for the coordinator and the good machines, nowhere for
/// the others.
constexpr char kOnTheShare[] = "/proc/self/cwd/examples/data/maths.valid.jsonl";

std::string evaluation(const std::string& name, int ranks = 1) {
  return "apiVersion: moe/v1\nkind: Pipeline\nname: " + name +
         "\ninputs: {dense: {path: examples/base-7m}}\nstages:\n  - {name: work, gang: {ranks: " +
         std::to_string(ranks) + "}, evaluate: {input: dense, max_tokens: 100, data: [{path: " + kOnTheShare + "}]}}\n";
}

std::string conversion(const std::string& name) {
  return "apiVersion: moe/v1\nkind: Pipeline\nname: " + name +
         "\ninputs: {dense: {path: examples/base-7m}}\nstages:\n  - {name: work, gang: {ranks: 1}, convert: {input: "
         "dense, ffn: {method: independent_random, experts: 8, top_k: 2}, "
         "scale: {mode: energy}, router: {init: kaiming}}}\n";
}

class CampaignTest : public ::testing::Test {
 protected:
  std::unique_ptr<BackgroundProcess> start_gang(const std::string& name, const Machine& machine = {}) {
    const std::string root = (machine.data_root.empty() ? cluster_.data_root() : machine.data_root).string();
    std::map<std::string, std::string> environment{{"OMP_NUM_THREADS", "1"}};
    if (!machine.launcher_id.empty()) environment["MOE_LAUNCHER_ID"] = machine.launcher_id;
    return std::make_unique<BackgroundProcess>(
        std::vector<std::string>{"bash", "-c", machine.setup + " exec \"$@\"", "bash", testing::worker_path(), "serve",
                                 "--coordinator", cluster_.address(), "--data-root", root},
        cluster_.folder() / (name + ".log"), environment, machine.folder);
  }

  static bool is_ready(const BackgroundProcess& gang) {
    return eventually(seconds(40), [&] { return gang.output().find("event=gang_ready") != std::string::npos; });
  }

  /// The gang of a process, by its log.
  static std::string id_of(const BackgroundProcess& gang) {
    std::smatch found;
    const std::string output = gang.output();
    return std::regex_search(output, found, std::regex("event=gang_ready gang=([0-9a-f]+)")) ? found[1].str() : "";
  }

  /// "" if the coordinator does not know it.
  std::string state_of(const std::string& gang_id) const {
    for (const json& gang : cluster_.moectl_json({"get", "gangs"}).value("gangs", json::array())) {
      if (gang["id"] == gang_id) return gang["state"];
    }
    return "";
  }

  void submit(int count, const std::function<std::string(const std::string&)>& file) {
    for (int i = 0; i < count; ++i)
      innocent_.push_back(cluster_.submit(file("innocent" + std::to_string(innocent_.size()))) + "-work");
  }

  int with_state(const std::string& state) const {
    int count = 0;
    for (const std::string& job : innocent_) count += cluster_.job(job)["state"] == "JOB_STATE_" + state;
    return count;
  }

  /// Waits until all have succeeded, or one has failed.
  void expect_all_succeed() {
    eventually(seconds(120), [&] {
      return with_state("SUCCEEDED") == static_cast<int>(innocent_.size()) || with_state("FAILED") > 0;
    });
    for (const std::string& id : innocent_) {
      const json job = cluster_.job(id);
      EXPECT_EQ(job["state"], "JOB_STATE_SUCCEEDED") << job.dump(1);
      EXPECT_EQ(job["failures"], 0) << job.dump(1);
    }
  }

  double metric(const std::string& series) const {
    const std::string page = testing::fetch(cluster_.http(), "/metrics").body;
    const size_t at = page.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(page.substr(at + series.size() + 2));
  }

  void phase(const std::string& name) {
    std::cout << "[" << std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count() << " s] "
              << name << "\n";
  }

  Cluster cluster_{{.lease_seconds = 8, .heartbeat_seconds = 1}};
  std::vector<std::string> innocent_;  ///< jobs
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

TEST_F(CampaignTest, NoInnocentJobFails) {
  std::mt19937 random(kSeed);
  phase("another data root, and storage that is not mounted");
  fs::create_directories(cluster_.folder() / "empty");
  fs::create_directories(cluster_.folder() / "other");
  const std::string other_id = create_root_id(cluster_.folder() / "other");
  const std::string our_id = read_root_id(cluster_.data_root()).value();
  submit(4, [](const std::string& name) { return evaluation(name); });
  const auto unmounted = start_gang("unmounted", {.data_root = cluster_.folder() / "empty"});
  const auto elsewhere = start_gang("elsewhere", {.data_root = cluster_.folder() / "other"});
  for (const auto& [gang, root, found] : {std::tuple(unmounted.get(), "empty", std::string("no .moe-root-id")),
                                          std::tuple(elsewhere.get(), "other", other_id)}) {
    EXPECT_EQ(gang->wait(seconds(40)), 65) << gang->output();
    EXPECT_THAT(gang->output(), AllOf(HasSubstr((cluster_.folder() / root).string()), HasSubstr(found),
                                      HasSubstr(our_id), HasSubstr(cluster_.data_root().string())));
  }
  EXPECT_TRUE(fs::is_empty(cluster_.folder() / "empty")) << "nothing is written where the storage should be";
  EXPECT_EQ(with_state("QUEUED"), 4);

  phase("a second coordinator");
  const testing::ProcessResult second = testing::run_process(
      {"timeout", "20", testing::build_dir() + "/bin/moe-coordinator", "--data-root", cluster_.data_root(), "--store",
       cluster_.folder() / "second.db", "--port", "0", "--http-port", "0"});
  EXPECT_EQ(second.exit_code, 65);
  EXPECT_THAT(second.err, AllOf(HasSubstr("in use by another moe-coordinator"),
                                HasSubstr("process " + std::to_string(cluster_.coordinator().pid())),
                                HasSubstr(cluster_.address())));

  phase("a machine without the share of the inputs, alone with the queue");
  const fs::path bare = cluster_.folder() / "bare";
  fs::create_directories(bare);
  const auto no_mount = start_gang("no-mount", {.folder = bare});
  ASSERT_TRUE(is_ready(*no_mount)) << no_mount->output();
  ASSERT_TRUE(eventually(seconds(30), [&] { return state_of(id_of(*no_mount)) == "quarantined"; }))
      << cluster_.moectl({"get", "gangs"}).out << no_mount->output();
  EXPECT_EQ(with_state("QUEUED"), 4) << "they wait for a gang that can";
  EXPECT_THAT(cluster_.moectl({"get", "gangs"}).out,
              AllOf(HasSubstr("failed 2 jobs that others can run"), HasSubstr("is missing or cannot be read")));
  EXPECT_THAT(testing::fetch(cluster_.http(), "/").body,
              AllOf(HasSubstr("quarantined"), HasSubstr("failed 2 jobs that others can run")));
  EXPECT_EQ(metric("moe_gangs{state=\"quarantined\"}"), 1);
  EXPECT_THAT(cluster_.job(innocent_.back())["pending_explanation"].get<std::string>(), HasSubstr("1 quarantined"));

  phase("a cloned launcher id");
  const auto good = start_gang("good", {.launcher_id = "gang-1"});
  ASSERT_TRUE(is_ready(*good)) << good->output();
  const std::string good_id = id_of(*good);
  const auto clone = start_gang("clone", {.launcher_id = "gang-1"});  // waits 20 s for the first to end
  const auto idle = start_gang("idle");
  ASSERT_TRUE(is_ready(*idle)) << idle->output();
  expect_all_succeed();

  phase("a dead idle gang, and one that stood still");
  const std::string dead_id = id_of(*idle);
  ASSERT_EQ(state_of(dead_id), "idle");
  const auto stopped = start_gang("stopped");
  ASSERT_TRUE(is_ready(*stopped)) << stopped->output();
  idle->signal(SIGKILL);
  stopped->signal(SIGSTOP);
  ASSERT_TRUE(eventually(seconds(30), [&] {
    return state_of(dead_id) == "lost" && state_of(id_of(*stopped)) == "lost";
  })) << cluster_.moectl({"get", "gangs"}).out;
  EXPECT_EQ(state_of(good_id), "idle");
  EXPECT_EQ(metric("moe_gangs{state=\"lost\"}"), 2);
  stopped->signal(SIGCONT);  // as mpirun ends a process that is stopped
  stopped->signal(SIGTERM);
  EXPECT_EQ(stopped->wait(seconds(20)), 128 + SIGTERM) << stopped->output();
  EXPECT_THAT(cluster_.moectl({"watch", "--no-follow"}).out, HasSubstr("its leader stood still for "));

  phase("a full share");
  const std::optional<int> clone_ended = clone->wait(seconds(40));
  EXPECT_EQ(clone_ended, 65) << clone->output();
  EXPECT_THAT(clone->output(),
              AllOf(HasSubstr("gang " + good_id), HasSubstr("'gang-1'"), HasSubstr("MOE_LAUNCHER_ID")));
  EXPECT_EQ(state_of(good_id), "idle") << "the first is not disturbed";
  good->signal(SIGUSR1);
  EXPECT_EQ(good->wait(seconds(20)), 75) << good->output();
  const std::string full = "ulimit -f 1024; trap '' XFSZ;";  // 1 MiB a file: what a model does not fit in
  std::vector<std::unique_ptr<BackgroundProcess>> gangs;
  for (const char* name : {"full-a", "full-b"}) gangs.push_back(start_gang(name, {.setup = full}));
  submit(3, conversion);
  const auto attempts = [&] {
    int sum = 0;
    for (size_t i = innocent_.size() - 3; i < innocent_.size(); ++i)
      sum += cluster_.job(innocent_[i])["attempt"].get<int>();
    return sum;
  };
  ASSERT_TRUE(eventually(seconds(60), [&] { return attempts() >= 10; }))
      << cluster_.job(innocent_.back()).dump(1) << gangs[0]->output();
  EXPECT_EQ(with_state("FAILED"), 0);
  EXPECT_EQ(cluster_.job(innocent_.back())["failures"], 0);
  EXPECT_EQ(cluster_.job(innocent_.back())["attempts"][0]["exit_code"], 74);

  phase("ten bad gangs among two good ones");
  for (const auto& gang : gangs) gang->signal(SIGTERM);
  for (const auto& gang : gangs) EXPECT_EQ(gang->wait(seconds(20)), 128 + SIGTERM) << gang->output();
  gangs.clear();
  std::vector<int> order(kBad + 2);
  for (int i = 0; i < kBad + 2; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  for (const int i : order)
    gangs.push_back(
        start_gang("crowd-" + std::to_string(i), i < 2 ? Machine{} : Machine{.folder = bare, .setup = full}));
  submit(8, [&](const std::string& name) { return random() % 2 == 0 ? evaluation(name) : conversion(name); });
  expect_all_succeed();

  phase("a thousand ended pipelines, and then three that live");
  const auto jobs =
      v1::JobService::NewStub(grpc::CreateChannel(cluster_.address(), grpc::InsecureChannelCredentials()));
  v1::GetRequest get;
  get.set_id(innocent_[0].substr(0, innocent_[0].rfind("-work")));
  v1::Pipeline pipeline;
  grpc::ClientContext get_context;
  ASSERT_TRUE(jobs->GetPipeline(&get_context, get, &pipeline).ok());
  v1::PipelineSpec spec = pipeline.spec();
  spec.set_name("ended");
  spec.mutable_stages(0)->mutable_gang()->set_ranks(9);  // of a shape that nobody has
  for (int i = 0; i < kEnded; ++i) {
    v1::SubmitRequest submit;
    submit.set_request_id("ended-" + std::to_string(i));
    *submit.mutable_spec() = spec;
    v1::SubmitResponse submitted;
    grpc::ClientContext context, cancel_context;
    const grpc::Status status = jobs->Submit(&context, submit, &submitted);
    ASSERT_TRUE(status.ok()) << status.error_message();
    v1::ControlRequest cancel;
    cancel.set_request_id("cancel-" + std::to_string(i));
    cancel.set_id(submitted.pipeline_id());
    v1::ControlResponse canceled;
    ASSERT_TRUE(jobs->Cancel(&cancel_context, cancel, &canceled).ok());
    if (i >= kLiving) continue;
    cluster_.submit(evaluation("living" + std::to_string(i), 9));  // older than nearly all that ended
  }
  const json stored = cluster_.moectl_json({"get", "jobs", "--state", "queued", "--limit", "0"})["jobs"];
  ASSERT_EQ(stored.size(), static_cast<size_t>(kLiving));
  EXPECT_EQ(metric("moe_queue_jobs{queue=\"default\",state=\"QUEUED\"}"), kLiving);
  const std::string page = testing::fetch(cluster_.http(), "/").body;
  for (const json& job : stored) {
    const std::string id = job["id"];
    EXPECT_EQ(metric("moe_job_state{job_id=\"" + id + "\"}"), 2) << id;
    EXPECT_THAT(page, HasSubstr(job["pipeline_id"].get<std::string>()));
  }
  std::map<std::string, int> gangs_by_state;
  const json listed = cluster_.moectl_json({"get", "gangs"});
  for (const json& gang : listed["gangs"]) ++gangs_by_state[gang["state"]];
  for (const auto& [state, count] : gangs_by_state)
    EXPECT_EQ(metric("moe_gangs{state=\"" + state + "\"}"), count) << state;
  EXPECT_GT(gangs_by_state["quarantined"], 0) << cluster_.moectl({"get", "gangs"}).out;

  phase("the end");
  std::cout << "seed " << kSeed << ": " << innocent_.size() << " innocent jobs, " << with_state("FAILED") << " failed; "
            << gangs_by_state["quarantined"] << " of " << kBad + 1 << " bad gangs in quarantine; " << kEnded
            << " ended pipelines, " << kLiving << " living\n";
  EXPECT_EQ(with_state("SUCCEEDED"), static_cast<int>(innocent_.size()));
}

}  // namespace
}  // namespace moe
