#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "coordinator/coordinator_fixture.h"
#include "coordinator/http_pages.h"
#include "coordinator/reporter.h"

// What others read of the coordinator's state: Prometheus, its service discovery, the files beside the results.
namespace moe {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::CoordinatorFixture;
using testing::one_stage;
using ::testing::HasSubstr;

double now_of(CoordinatorFixture& fixture) { return std::chrono::duration<double>(fixture.clock().wall().time_since_epoch()).count(); }

CoordinatorSnapshot snapshot(CoordinatorFixture& fixture) { return snapshot_of(fixture.coordinator().view(200), now_of(fixture)); }

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
  fixture.pass(50s);   // nobody was heard of
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
  EXPECT_EQ(shown.queues[0].jobs, (std::map<std::string, int64_t>{{"BLOCKED", 3}, {"QUEUED", 1}}));
  EXPECT_NEAR(shown.queues[0].oldest_wait_seconds, 7, 0.01);
  EXPECT_EQ(shown.gangs.at(0).job_id, "");
  EXPECT_TRUE(shown.gates.empty());

  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g"), v1::ATTEMPT_OUTCOME_SUCCEEDED, {{"loss_ratio_to_baseline", 9}}).ok());
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
  EXPECT_EQ(snapshot(fixture).jobs.size(), 2u);   // what ended is shown for an hour
}

TEST(PagesTest, TheReporterWritesTheFilesOfAPipelineAndNotAgainAfterAStart) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(one_stage());
  const std::filesystem::path folder = fixture.root() / id;
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_FALSE(std::filesystem::exists(folder / "summary.json"));   // nothing has happened yet
  ASSERT_TRUE(fixture.coordinator().cancel(fixture.control(id)).ok());
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_THAT(read_file(folder / "summary.json"), HasSubstr("CANCELED"));
  EXPECT_THAT(read_file(folder / "report.html"), HasSubstr("<html"));
  EXPECT_THAT(read_file(folder / "summary.txt"), HasSubstr("one: CANCELED"));

  write_file_atomically(folder / "summary.json", "untouched");
  fixture.restart();
  { const Reporter reporter(fixture.coordinator(), fixture.root()); }
  EXPECT_EQ(read_file(folder / "summary.json"), "untouched");
  std::filesystem::remove(folder / "summary.txt");   // it did not get that far the last time
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
  for (int i = 0; i < 10'100; ++i) fixture.submit(one_stage());   // two events each; 20,000 are kept
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
