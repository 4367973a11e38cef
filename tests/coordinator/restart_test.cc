#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <iostream>

#include "coordinator/coordinator_fixture.h"

// The coordinator ends and starts again over the same store: at every point of a session, and what gangs notice of it.
namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::chain;
using testing::CoordinatorFixture;
using testing::one_stage;

/// A session with two gangs and two pipelines that goes through leases, checkpoints, a lost gang, a held gate, pause
/// and retry. `between(n)` is called after each of its steps.
std::string session(CoordinatorFixture& fixture, const std::function<void(int)>& between) {
  int steps = 0;
  const auto step = [&](bool ok) {
    EXPECT_TRUE(ok) << "step " << steps;
    between(steps++);
  };
  std::string id, other;
  v1::Lease lease;
  fixture.register_gang("g1", 1, "launcher");
  step(true);
  id = fixture.submit(chain());
  step(true);
  fixture.pass(100ms);
  other = fixture.submit(one_stage("other"));
  step(true);
  lease = fixture.must_acquire("g1");
  step(true);
  step(fixture.heartbeat("g1", lease, "converting", 1).ok());
  step(fixture.complete("g1", lease).ok());
  lease = fixture.must_acquire("g1");
  step(lease.job_id() == id + "-parity-eval");
  step(fixture.complete("g1", lease, v1::ATTEMPT_OUTCOME_SUCCEEDED, {{"loss_ratio_to_baseline", 5}}).ok());
  step(fixture.decide(id, true).ok());
  lease = fixture.must_acquire("g1");
  step(lease.job_id() == id + "-stage1");
  step(fixture.report("g1", lease, {1, 2, 3, 4}).ok());
  step(fixture.commit("g1", lease, 4).ok());
  fixture.register_gang("g2", 1, "launcher", 137);
  step(fixture.state(id + "-stage1") == "QUEUED");
  lease = fixture.must_acquire("g2");
  step(lease.attempt() == 2 && lease.checkpoints_size() == 1);
  step(fixture.coordinator().pause(fixture.control(id)).ok());
  step(fixture.heartbeat("g2", lease)->directive() == v1::DIRECTIVE_RELEASE);
  step(fixture.commit("g2", lease, 8).ok());
  step(fixture.complete("g2", lease, v1::ATTEMPT_OUTCOME_RELEASED).ok());
  lease = fixture.must_acquire("g2");
  step(lease.job_id() == other + "-work");
  step(fixture.complete("g2", lease, v1::ATTEMPT_OUTCOME_PERMANENT, {}, "bad data").ok());
  step(fixture.coordinator().resume(fixture.control(id)).ok());
  step(fixture.coordinator().retry(fixture.control(other)).ok());
  lease = fixture.must_acquire("g2");
  step(lease.job_id() == id + "-stage1" && lease.attempt() == 3);
  step(fixture.complete("g2", lease).ok());
  lease = fixture.must_acquire("g2");
  step(lease.job_id() == id + "-evaluate");
  step(fixture.complete("g2", lease).ok());
  lease = fixture.must_acquire("g2");
  step(fixture.complete("g2", lease).ok());
  EXPECT_EQ(fixture.story(other), "SUCCEEDED: work SUCCEEDED");
  return fixture.story(id);
}

TEST(RestartTest, AtEveryPointOfASession) {
  constexpr char kEnd[] =
      "SUCCEEDED: convert SUCCEEDED, parity-eval SUCCEEDED, parity APPROVED, stage1 SUCCEEDED, evaluate SUCCEEDED";
  int points = 0;
  {
    CoordinatorFixture fixture;
    EXPECT_EQ(session(fixture, [&](int n) { points = n + 1; }), kEnd);
  }
  int differences = 0;
  for (int point = -1; point < points; ++point) {  // -1: at all of them
    CoordinatorFixture fixture;
    const std::string end = session(fixture, [&](int n) {
      if (point >= 0 && n != point) return;
      const auto before = fixture.snapshot();
      fixture.restart();
      differences += before != fixture.snapshot();
    });
    EXPECT_EQ(end, kEnd) << "restarted after step " << point;
    EXPECT_EQ(fixture.observed().expired["LEASE_EXPIRED"], 0);
  }
  std::cout << "restarted after each of " << points << " steps and after all, " << differences << " differences\n";
  EXPECT_EQ(differences, 0);
}

TEST(RestartTest, GangsHaveThreeLeasesToComeBack) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g");
  fixture.clock().advance(10min);  // it was away for long
  fixture.restart();
  fixture.pass(44s);
  EXPECT_EQ(fixture.state(job), "ASSIGNED");
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  fixture.pass(14s);
  EXPECT_EQ(fixture.state(job), "RUNNING");
  fixture.restart();
  fixture.pass(44s);
  EXPECT_EQ(fixture.state(job), "RUNNING");
  fixture.pass(2s);
  EXPECT_EQ(fixture.state(job), "QUEUED");
}

TEST(RestartTest, ALateGangIsTakenUpAfterARestartToo) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g");
  fixture.pass(16s);
  ASSERT_EQ(fixture.state(job), "QUEUED");
  fixture.restart();
  ASSERT_TRUE(fixture.heartbeat("g", lease).ok());
  EXPECT_EQ(fixture.state(job), "RUNNING");
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(RestartTest, BackoffAndBudgetOutliveIt) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  for (int i = 0; i < 2; ++i)
    ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g"), v1::ATTEMPT_OUTCOME_RETRYABLE).ok());
  fixture.restart();
  EXPECT_FALSE(fixture.acquire("g"));
  EXPECT_EQ(fixture.job(job).failures(), 2);
  fixture.pass(31s);
  EXPECT_EQ(fixture.must_acquire("g").attempt(), 3);
}

TEST(RestartTest, AForgottenGangRegistersAgain) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  fixture.register_gang("h");
  fixture.pass(100s);
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 0);  // lost
  EXPECT_EQ(fixture.coordinator().list_gangs({})->gangs(0).state(), "lost");
  fixture.acquire("h");
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 1);
  fixture.pass(210s);
  EXPECT_EQ(fixture.coordinator().list_gangs({})->gangs_size(), 1);  // g is forgotten
  v1::AcquireLeaseRequest request;
  request.set_gang_id("g");
  EXPECT_EQ(fixture.coordinator().acquire_lease(request).status().code(), absl::StatusCode::kNotFound);
  fixture.register_gang("g");
  EXPECT_TRUE(fixture.coordinator().acquire_lease(request).ok());
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

}  // namespace
}  // namespace moe
