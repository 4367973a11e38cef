// Gangs that are not heard of: their leases expire, and who comes back takes its job up again if nobody has it.
#include <gtest/gtest.h>

#include "coordinator/coordinator_fixture.h"

namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::CoordinatorFixture;
using testing::one_stage;

constexpr auto kAborted = absl::StatusCode::kAborted;

TEST(LeasesTest, AnExpiredLeaseQueuesTheJobAndAnotherGangGoesOn) {
  CoordinatorFixture fixture;
  fixture.register_gang("g1");
  fixture.register_gang("g2");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lost = fixture.must_acquire("g1");
  ASSERT_TRUE(fixture.commit("g1", lost, 5).ok());
  for (int i = 0; i < 10; ++i) {
    fixture.pass(10s);
    ASSERT_TRUE(fixture.heartbeat("g1", lost, "training", i).ok());
  }
  EXPECT_EQ(fixture.observed().expired.size(), 0u);
  fixture.pass(14500ms);
  EXPECT_EQ(fixture.state(job), "RUNNING");
  fixture.pass(500ms);
  EXPECT_EQ(fixture.state(job), "QUEUED");
  EXPECT_EQ(fixture.job(job).reason(), "LEASE_EXPIRED");
  EXPECT_EQ(fixture.observed().expired["LEASE_EXPIRED"], 1);

  const v1::Lease next = fixture.must_acquire("g2");  // at once: the first failure costs no wait
  EXPECT_EQ(next.attempt(), 2);
  ASSERT_EQ(next.checkpoints_size(), 1);
  EXPECT_EQ(next.checkpoints(0).step(), 5);
  // Everything that the old gang may still say is refused.
  EXPECT_EQ(fixture.heartbeat("g1", lost).status().code(), kAborted);
  EXPECT_EQ(fixture.report("g1", lost, {6}).code(), kAborted);
  EXPECT_EQ(fixture.commit("g1", lost, 6).code(), kAborted);
  EXPECT_EQ(fixture.complete("g1", lost).code(), kAborted);
  EXPECT_EQ(fixture.complete("g1", lost, v1::ATTEMPT_OUTCOME_RETRYABLE).code(), kAborted);
  EXPECT_EQ(fixture.observed().fenced, 5);
  // Also if it makes up the new number, or the new gang the old one.
  EXPECT_EQ(fixture.heartbeat("g1", next).status().code(), kAborted);
  EXPECT_EQ(fixture.heartbeat("g2", lost).status().code(), kAborted);
  EXPECT_EQ(fixture.job(job).checkpoints_size(), 1);
  ASSERT_TRUE(fixture.complete("g2", next).ok());
  EXPECT_EQ(fixture.job(job).output_path(), job + "/output-t0002");
  EXPECT_EQ(fixture.job(job).restarts().at("LEASE_EXPIRED"), 1);
}

TEST(LeasesTest, ALateGangTakesItsJobUpAgainIfNobodyHasIt) {
  const char* calls[] = {"heartbeat", "report", "commit", "complete", "refused commit"};
  for (const std::string call : calls) {
    CoordinatorFixture fixture;
    fixture.register_gang("g");
    const std::string job = fixture.submit(one_stage()) + "-work";
    const v1::Lease lease = fixture.must_acquire("g");
    fixture.pass(20s);
    ASSERT_EQ(fixture.state(job), "QUEUED");
    EXPECT_EQ(fixture.job(job).failures(), 1);
    absl::Status written;
    if (call == "heartbeat") written = fixture.heartbeat("g", lease).status();
    if (call == "report") written = fixture.report("g", lease, {1});
    if (call == "commit") written = fixture.commit("g", lease, 1);
    if (call == "complete") written = fixture.complete("g", lease);
    ASSERT_TRUE(written.ok()) << written;
    if (call == "refused commit") {
      v1::CommitCheckpointRequest wrong = fixture.commit_request("g", lease, 1);
      wrong.mutable_checkpoint()->set_digest("another");
      EXPECT_EQ(fixture.coordinator().commit_checkpoint(wrong).status().code(), absl::StatusCode::kFailedPrecondition);
    }
    EXPECT_EQ(fixture.state(job), call == "complete" ? "SUCCEEDED" : "RUNNING") << call;
    EXPECT_EQ(fixture.job(job).failures(), 0);
    EXPECT_EQ(fixture.job(job).attempt(), 1);
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load()) << call;
    fixture.register_gang("other");
    EXPECT_FALSE(fixture.acquire("other"));
  }
}

TEST(LeasesTest, NobodyTakesUpWhatHeLetGo) {
  for (const auto outcome : {v1::ATTEMPT_OUTCOME_RELEASED, v1::ATTEMPT_OUTCOME_RETRYABLE}) {
    CoordinatorFixture fixture;
    fixture.register_gang("g");
    const std::string job = fixture.submit(one_stage()) + "-work";
    const v1::Lease lease = fixture.must_acquire("g");
    ASSERT_TRUE(fixture.complete("g", lease, outcome).ok());
    EXPECT_EQ(fixture.state(job), "QUEUED");
    EXPECT_EQ(fixture.heartbeat("g", lease).status().code(), kAborted);  // a heartbeat that came late
    EXPECT_EQ(fixture.complete("g", lease).code(), kAborted);
    EXPECT_TRUE(fixture.complete("g", lease, outcome).ok());  // the same again is harmless
    EXPECT_EQ(fixture.state(job), "QUEUED");
    EXPECT_EQ(fixture.job(job).failures(), outcome == v1::ATTEMPT_OUTCOME_RETRYABLE ? 1 : 0);
  }
}

TEST(LeasesTest, AGangWithOtherWorkDoesNotTakeUpTheOld) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string first = fixture.submit(one_stage("first")) + "-work";
  fixture.pass(1s);
  const std::string second = fixture.submit(one_stage("second")) + "-work";
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(first)).ok());
  const v1::Lease lost = fixture.must_acquire("g");
  ASSERT_EQ(lost.job_id(), second);
  fixture.pass(16s);  // expires
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(first)).ok());
  ASSERT_EQ(fixture.must_acquire("g").job_id(), first);
  EXPECT_EQ(fixture.heartbeat("g", lost).status().code(), kAborted);  // came late; two jobs of one gang would be wrong
  EXPECT_EQ(fixture.state(second), "QUEUED");
}

TEST(LeasesTest, ASilentGangIsUnheardAndThenLost) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  fixture.register_gang("working");
  const auto state = [&](int index) { return fixture.coordinator().list_gangs({})->gangs(index).state(); };
  fixture.submit(one_stage());
  const v1::Lease lease = fixture.must_acquire("working");
  EXPECT_EQ(state(0), "idle");
  EXPECT_EQ(state(1), "busy");
  for (int i = 0; i < 3; ++i) {
    fixture.pass(3s);
    EXPECT_EQ(state(0), "idle");
    ASSERT_TRUE(fixture.heartbeat("working", lease).ok());
  }
  fixture.pass(500ms);
  EXPECT_EQ(state(0), "unheard");
  EXPECT_EQ(state(1), "busy");
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 2);
  fixture.pass(6s);
  EXPECT_EQ(state(0), "lost");
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 1);
  fixture.acquire("g");
  EXPECT_EQ(state(0), "idle");
  // A stall of the coordinator makes nobody silent.
  fixture.clock().advance(5min);
  fixture.coordinator().tick();
  EXPECT_EQ(state(0), "idle");
  EXPECT_EQ(state(1), "busy");
}

TEST(LeasesTest, AStallOfTheCoordinatorIsNobodysFault) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g");
  fixture.pass(1s);
  fixture.clock().advance(5min);
  fixture.coordinator().tick();
  EXPECT_EQ(fixture.state(job), "ASSIGNED");
  fixture.pass(14s);
  EXPECT_EQ(fixture.state(job), "ASSIGNED");
  EXPECT_TRUE(fixture.heartbeat("g", lease).ok());
  fixture.pass(15s);
  EXPECT_EQ(fixture.state(job), "QUEUED");
}

TEST(LeasesTest, AfterAStallTheFirstCallFindsTheGangsAsTheyWere) {
  CoordinatorFixture fixture;
  fixture.register_gang("dead");
  fixture.register_gang("idle", 1, "launcher-of-idle");
  fixture.register_gang("working");
  const auto state = [&](int index) { return fixture.coordinator().list_gangs({})->gangs(index).state(); };
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("working");
  for (int i = 0; i < 4; ++i) {
    fixture.pass(5s);
    EXPECT_FALSE(fixture.acquire("idle"));
    ASSERT_TRUE(fixture.heartbeat("working", lease).ok());
  }
  ASSERT_EQ(state(0), "lost");
  fixture.clock().advance(5min);  // stopped, and here comes what waited in the sockets
  v1::RegisterGangRequest clone;
  clone.set_root_id(CoordinatorFixture::kRootId);
  clone.mutable_gang()->set_id("clone");
  clone.mutable_gang()->set_launcher_id("launcher-of-idle");
  clone.mutable_gang()->set_device("cpu");
  clone.mutable_gang()->add_ranks();
  EXPECT_EQ(fixture.coordinator().register_gang(clone).status().code(), absl::StatusCode::kAlreadyExists)
      << "the idle gang is not silent";
  fixture.clock().advance(5min);
  ASSERT_TRUE(fixture.complete("working", lease, v1::ATTEMPT_OUTCOME_RETRYABLE, {}, "the machine", 71).ok());
  EXPECT_EQ(fixture.job(job).attempts(0).fault(), v1::ATTEMPT_FAULT_GANG) << "the idle gang is there to try it";
  EXPECT_EQ(fixture.job(job).failures(), 0);
  fixture.clock().advance(5min);
  EXPECT_EQ(state(0), "lost") << "it was before";
  EXPECT_EQ(state(1), "idle");
  EXPECT_EQ(state(2), "idle");
  EXPECT_TRUE(fixture.acquire("idle"));
}

}  // namespace
}  // namespace moe
