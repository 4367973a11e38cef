#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "common/file_io.h"
#include "coordinator/coordinator_fixture.h"
#include "coordinator/http_pages.h"
#include "coordinator/metric_labels.h"
#include "coordinator/reporter.h"

// What others read of the coordinator's state: Prometheus, its service discovery, the files beside the results.
namespace moe {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::CoordinatorFixture;
using ::testing::HasSubstr;
using testing::one_stage;

double now_of(CoordinatorFixture& fixture) {
  return std::chrono::duration<double>(fixture.clock().wall().time_since_epoch()).count();
}

CoordinatorSnapshot snapshot(CoordinatorFixture& fixture) {
  const double now = now_of(fixture);
  return snapshot_of(fixture.coordinator().work(CoordinatorMetrics::kMaxJobs, static_cast<int64_t>((now - 3600) * 1e6)),
                     now);
}

std::string status_page(CoordinatorFixture& fixture) {
  return render_status_page(status_page_of(fixture.coordinator().view(kStatusPagePipelines), "1", "now"));
}

/// The number on a tile of the page.
int tile(const std::string& page, const std::string& label) {
  const size_t at = page.find("</b><span class=\"muted\">" + label);
  if (at == std::string::npos) return -1;
  const size_t begin = page.rfind("<b>", at) + 3;
  return std::stoi(page.substr(begin, at - begin));
}

TEST(PagesTest, DiscoveryListsTheRanksOfGangsThatAreThere) {
  CoordinatorFixture fixture;
  v1::RegisterGangRequest request;
  request.set_root_id(CoordinatorFixture::kRootId);
  request.mutable_gang()->set_device("cpu");
  for (const char* id : {"g1", "g2"}) {
    request.mutable_gang()->set_id(id);
    request.mutable_gang()->clear_ranks();
    for (int rank = 0; rank < 2; ++rank) {
      v1::GangRank& entry = *request.mutable_gang()->add_ranks();
      entry.set_rank(rank);
      entry.set_node("node7");
      if (rank == 0 || id == std::string("g1")) entry.set_metrics_endpoint("127.0.0.1:4100" + std::to_string(rank));
    }
    ASSERT_TRUE(fixture.coordinator().register_gang(request).ok());
  }
  EXPECT_EQ(json::parse(discovery_document(fixture.coordinator().view(0).gangs)), json::parse(R"([
    {"targets": ["127.0.0.1:41000"], "labels": {"gang_id": "g1", "rank": "0000", "node": "node7"}},
    {"targets": ["127.0.0.1:41001"], "labels": {"gang_id": "g1", "rank": "0001", "node": "node7"}},
    {"targets": ["127.0.0.1:41000"], "labels": {"gang_id": "g2", "rank": "0000", "node": "node7"}}])"));
  fixture.pass(50s);  // nobody was heard of
  EXPECT_EQ(discovery_document(fixture.coordinator().view(0).gangs), "[]");
}

TEST(PagesTest, TheSnapshotHasJobsQueueGangsAndGates) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::chain());
  fixture.pass(7s);
  CoordinatorSnapshot shown = snapshot(fixture);
  ASSERT_EQ(shown.jobs.size(), 4u);
  ASSERT_EQ(shown.queues.size(), 1u);
  EXPECT_EQ(shown.queues[0].jobs,
            (std::map<std::string, int64_t>{
                {"ASSIGNED", 0}, {"BLOCKED", 3}, {"PAUSED", 0}, {"QUEUED", 1}, {"RUNNING", 0}, {"STOPPING", 0}}));
  EXPECT_NEAR(shown.queues[0].oldest_wait_seconds, 7, 0.01);
  EXPECT_EQ(shown.gangs.at(0).job_id, "");
  EXPECT_TRUE(shown.gates.empty());

  fixture.run_chain_to_its_gate("g");
  shown = snapshot(fixture);
  ASSERT_EQ(shown.gates.size(), 1u);
  EXPECT_EQ(shown.gates[0].gate, "parity");
  EXPECT_EQ(shown.gates[0].stage, "parity-eval");
  EXPECT_FALSE(shown.gates[0].passed);
  ASSERT_TRUE(fixture.decide(id, true).ok());
  const v1::Lease lease = fixture.must_acquire("g");
  ASSERT_TRUE(fixture.commit("g", lease, 6).ok());
  shown = snapshot(fixture);
  EXPECT_TRUE(shown.gates[0].passed);
  EXPECT_EQ(shown.gangs[0].job_id, id + "-stage1");
  int checkpoints = 0;
  for (const CoordinatorSnapshot::Job& job : shown.jobs) {
    EXPECT_EQ(job.pipeline_id, id);
    EXPECT_EQ(job.user, "ada");
    checkpoints += job.last_checkpoint_step == 6;
  }
  EXPECT_EQ(checkpoints, 1);
  EXPECT_EQ(shown.jobs.size(), 4u);
  fixture.pass(10s);
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  fixture.clock().advance(2h);
  EXPECT_EQ(snapshot(fixture).jobs.size(), 2u);  // what ended is shown for an hour
}

// Whatever has ended since, however much: what lives is shown, counted and true. Page, metrics and the store tell the
// same.
TEST(PagesTest, AThousandEndedPipelinesHideNothingOfThreeLivingOnes) {
  CoordinatorFixture fixture(24h);
  fixture.register_gang("g");
  const std::string running = fixture.submit(testing::chain("running"));
  const v1::Lease lease = fixture.must_acquire("g");
  fixture.heartbeat("g", lease, "converting", 3).value();
  const std::string queued = fixture.submit(one_stage("queued"));
  fixture.clock().advance(10s);
  const std::string paused = fixture.submit(one_stage("paused"));
  fixture.coordinator().pause(fixture.control(paused + "-work")).value();
  // Ended in all ways, many of them within the hour.
  for (int i = 0; i < 1000; ++i) {
    const std::string ended = fixture.submit(one_stage("ended"));
    fixture.coordinator().cancel(fixture.control(i % 2 == 0 ? ended : ended + "-work")).value();  // CANCELED or FAILED
    fixture.clock().advance(1s);
  }
  for (const bool restarted : {false, true}) {
    if (restarted) fixture.restart();
    const std::string page = status_page(fixture);
    EXPECT_EQ(tile(page, "jobs at work"), 1);
    EXPECT_EQ(tile(page, "jobs queued"), 1);
    EXPECT_EQ(tile(page, "pipelines running"), 2);
    EXPECT_THAT(page, HasSubstr("3 of 3 that have not ended, 47 of 1000 that have"));
    size_t last = page.find("Pipelines</h2>");
    for (const std::string& id : {running, queued, paused}) EXPECT_NE(page.find(id, last), std::string::npos) << id;
    EXPECT_LT(page.find(running), page.find("ended-")) << "what lives stands first";
    EXPECT_THAT(page, HasSubstr("<h3>" + running + "-convert</h3>"));

    const CoordinatorSnapshot shown = snapshot(fixture);
    std::map<std::string, int> states;
    for (const CoordinatorSnapshot::Job& job : shown.jobs) {
      if (!job.has_ended) states[job.job_id] = job.state;
    }
    EXPECT_NEAR(shown.queues.at(0).oldest_wait_seconds, 1010, 0.01);
    EXPECT_EQ(shown.jobs.size(), CoordinatorMetrics::kMaxJobs);

    // The store itself: what is in its tables.
    const std::map<std::string, std::string> stored = fixture.stored_states();
    std::map<std::string, int> living;
    std::map<std::string, int64_t> counts{{"ASSIGNED", 0}, {"BLOCKED", 0}, {"PAUSED", 0},
                                          {"QUEUED", 0},   {"RUNNING", 0}, {"STOPPING", 0}};
    for (const auto& [job, state] : stored) {
      v1::JobState value = v1::JOB_STATE_UNSPECIFIED;
      ASSERT_TRUE(v1::JobState_Parse("JOB_STATE_" + state, &value)) << state;
      if (is_terminal(value)) continue;
      living[job] = value;
      ++counts[state];
    }
    EXPECT_EQ(stored.size(), 1006u);
    EXPECT_EQ(states, living);
    EXPECT_EQ(shown.queues[0].jobs, counts);
    EXPECT_EQ(counts["RUNNING"], 1);
    EXPECT_EQ(counts["PAUSED"], 1);
  }
}

TEST(PagesTest, JobsAtWorkAreShownAlsoOfPipelinesThatEndedOrHaveNoRoom) {
  CoordinatorFixture fixture(24h);
  fixture.register_gang("g");
  fixture.register_gang("h");
  const std::string canceled = fixture.submit(one_stage("canceled"));
  fixture.heartbeat("g", fixture.must_acquire("g")).value();
  fixture.coordinator().cancel(fixture.control(canceled)).value();
  EXPECT_EQ(fixture.story(canceled), "CANCELED: work STOPPING");
  fixture.clock().advance(1s);
  for (int i = 0; i < 60; ++i) fixture.submit(one_stage("waits"));
  fixture.heartbeat("h", fixture.must_acquire("h")).value();
  const std::string page = status_page(fixture);
  EXPECT_EQ(tile(page, "jobs at work"), 2);
  EXPECT_EQ(tile(page, "jobs queued"), 59);
  EXPECT_THAT(page, HasSubstr("<h3>" + canceled + "-work</h3>"));
  EXPECT_THAT(page, HasSubstr("50 of 61 that have not ended, 0 of 0 that have"));
  const CoordinatorSnapshot shown = snapshot(fixture);
  EXPECT_EQ(shown.jobs.size(), 61u);
  EXPECT_EQ(shown.jobs[0].state + shown.jobs[1].state, v1::JOB_STATE_STOPPING + v1::JOB_STATE_RUNNING)
      << "those at work come first";
}

TEST(PagesTest, AGateIsShownWhileItsPipelineLives) {
  for (const char* end : {"reject", "cancel", "approve"}) {
    CoordinatorFixture fixture;
    fixture.register_gang("g");
    const std::string id = fixture.submit(testing::chain());
    fixture.run_chain_to_its_gate("g");
    ASSERT_EQ(snapshot(fixture).gates.size(), 1u);
    EXPECT_FALSE(snapshot(fixture).gates[0].passed);
    if (end == std::string("cancel")) {
      fixture.coordinator().cancel(fixture.control(id)).value();
    } else {
      fixture.decide(id, end == std::string("approve")).value();
    }
    const std::vector<CoordinatorSnapshot::Gate> gates = snapshot(fixture).gates;
    if (end == std::string("approve")) {
      ASSERT_EQ(gates.size(), 1u);
      EXPECT_TRUE(gates[0].passed);
      EXPECT_THAT(fixture.pipeline(id).stages(2).message(), ::testing::Not(HasSubstr("approve")))
          << "nobody is asked any more";
    } else {
      EXPECT_TRUE(gates.empty()) << "an alert on moe_gate_passed == 0 would never end after " << end;
    }
    EXPECT_THAT(status_page(fixture), ::testing::Not(HasSubstr("approve"))) << end;
  }
}

TEST(PagesTest, CountersBeginWithEveryReasonThatCanHappen) {
  const CoordinatorLabels labels = metric_labels();
  EXPECT_EQ(labels.kinds, (std::vector<std::string>{"convert", "train", "evaluate", "export", "analyze"}));
  EXPECT_EQ(labels.outcomes, (std::vector<std::string>{"SUCCEEDED", "FAILED", "CANCELED"}));
  std::set<std::string> methods;
  for (const CoordinatorLabels::Method& method : labels.methods) methods.insert(method.name);
  EXPECT_TRUE(methods.contains("Submit") && methods.contains("GetServerInfo") && methods.contains("Heartbeat") &&
              methods.contains("DeregisterGang"));
  EXPECT_EQ(methods.size(), labels.methods.size());
  std::vector<std::string> reasons = labels.expiry_reasons;
  for (const char* reason : {"ATTEMPT_FAILED", "INPUTS_UNREADABLE", "NO_ROOM"}) reasons.emplace_back(reason);
  EXPECT_EQ(labels.restart_reasons, reasons);
}

TEST(PagesTest, TheSummaryFollowsAnApproval) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::chain());
  fixture.run_chain_to_its_gate("g");
  for (const char* stage : {"convert", "parity-eval"}) {
    write_file_atomically(
        fixture.root() / (id + "-" + stage) / "output-t0001" / "STAGE.json",
        json{
            {"stage", stage},
            {"kind", stage == std::string("convert") ? "convert" : "evaluate"},
            {"attempt", 1},
            {"seconds", 1.5},
            {"finished_at", "2026-11-24T12:00:00Z"},
            {"details", {{"model", {{"parameters_total", 9}, {"parameters_active", 9}, {"experts", 8}, {"top_k", 2}}}}}}
            .dump());
  }
  const std::filesystem::path summary = fixture.root() / id / "summary.txt";
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(summary), HasSubstr("chain: HELD"));
  fixture.decide(id, true).value();
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(summary), ::testing::AllOf(HasSubstr("chain: RUNNING"), ::testing::Not(HasSubstr("HELD"))));
  // And the jobs, whose states change without the pipeline's.
  const v1::Lease lease = fixture.must_acquire("g");
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  const std::filesystem::path report = fixture.root() / id / "report.html";
  EXPECT_THAT(read_file(report), ::testing::AllOf(HasSubstr("ASSIGNED"), ::testing::Not(HasSubstr("STOPPING"))));
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  EXPECT_EQ(fixture.coordinator().take_changed_pipelines(0ms), std::set<std::string>{id});
  fixture.coordinator().pause(fixture.control(lease.job_id())).value();
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(report), HasSubstr("STOPPING"));
}

TEST(PagesTest, WhoeverWritesSummariesIsWokenByAChange) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(one_stage());
  const v1::Lease lease = fixture.must_acquire("g");
  EXPECT_EQ(fixture.coordinator().take_changed_pipelines(0ms), std::set<std::string>{id});
  EXPECT_TRUE(fixture.coordinator().take_changed_pipelines(1ms).empty());
  const std::function<void()> changes[] = {[&] { fixture.heartbeat("g", lease).value(); },  // of a job alone
                                           [&] { fixture.coordinator().cancel(fixture.control(id)).value(); }};
  for (const auto& change : changes) {
    std::set<std::string> woken;
    const auto begun = std::chrono::steady_clock::now();
    std::thread writer([&] { woken = fixture.coordinator().take_changed_pipelines(20s); });
    std::this_thread::sleep_for(50ms);  // it waits by now, mostly
    change();
    writer.join();
    EXPECT_EQ(woken, std::set<std::string>{id});
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 15s) << "it was not woken";
  }
}

TEST(PagesTest, TheReporterWritesTheFilesOfAPipelineAndNotAgainAfterAStart) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(one_stage());
  const std::filesystem::path folder = fixture.root() / id;
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_FALSE(std::filesystem::exists(folder / "summary.json"));  // nothing has happened yet
  ASSERT_TRUE(fixture.coordinator().cancel(fixture.control(id)).ok());
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(folder / "summary.json"), HasSubstr("CANCELED"));
  EXPECT_THAT(read_file(folder / "report.html"), HasSubstr("<html"));
  EXPECT_THAT(read_file(folder / "summary.txt"), HasSubstr("one: CANCELED"));

  write_file_atomically(folder / "summary.json", "untouched");
  fixture.restart();
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_EQ(read_file(folder / "summary.json"), "untouched");
  std::filesystem::remove(folder / "summary.txt");  // it did not get that far the last time
  fixture.restart();
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(folder / "summary.json"), HasSubstr("CANCELED"));
}

TEST(PagesTest, AResultThatCannotBeReadIsNoReasonToStop) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string bad = fixture.submit(one_stage("bad"));
  const v1::Lease lease = fixture.must_acquire("g");
  ASSERT_TRUE(fixture.complete("g", lease).ok());
  std::filesystem::remove_all(fixture.root() / (bad + "-work"));
  const std::string good = fixture.submit(one_stage("good"));
  ASSERT_TRUE(fixture.coordinator().cancel(fixture.control(good)).ok());
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_FALSE(std::filesystem::exists(fixture.root() / bad / "summary.json"));
  EXPECT_TRUE(std::filesystem::exists(fixture.root() / good / "summary.json"));
}

TEST(PagesTest, AWatcherThatIsTooLateIsToldToStartAgain) {
  CoordinatorFixture fixture;
  v1::WatchRequest watch;
  for (int i = 0; i < 10'100; ++i) fixture.submit(one_stage());  // two events each; 20,000 are kept
  for (const bool restarted : {false, true}) {
    if (restarted) fixture.restart();
    watch.set_after_revision(1);
    EXPECT_EQ(fixture.coordinator().watch(watch).status().code(), absl::StatusCode::kOutOfRange);
    watch.set_after_revision(0);
    const auto oldest = fixture.coordinator().watch(watch);
    ASSERT_EQ(oldest->events_size(), 500);
    EXPECT_EQ(oldest->events(0).revision(), 201);
    EXPECT_FALSE(oldest->has_ended());
    watch.set_after_revision(oldest->revision());
    EXPECT_EQ(fixture.coordinator().watch(watch)->events(0).revision(), oldest->revision() + 1);
  }
}

}  // namespace
}  // namespace moe
