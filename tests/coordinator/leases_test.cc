#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <thread>

#include "coordinator/coordinator_fixture.h"

// Who holds a job, for how long, and what the others may no longer do.
namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::CoordinatorFixture;
using ::testing::HasSubstr;
using testing::one_stage;

constexpr auto kAborted = absl::StatusCode::kAborted;

TEST(LeasesTest, AGangThatAsksAgainGetsTheSameLease) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  fixture.submit(one_stage("two"));
  const v1::Lease first = fixture.must_acquire("g");
  fixture.pass(14s);
  const v1::Lease second = fixture.must_acquire("g");
  EXPECT_EQ(first.SerializeAsString(), second.SerializeAsString());
  fixture.pass(14s);  // asking was a sign of life
  EXPECT_EQ(fixture.state(job), "ASSIGNED");
  EXPECT_FALSE(fixture.acquire("stranger"));
  EXPECT_EQ(fixture.coordinator().acquire_lease({}).status().code(), absl::StatusCode::kNotFound);
}

TEST(LeasesTest, ALeaseNamesTheFilesThatThePipelineEvaluatesOn) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  fixture.submit(testing::chain());
  const v1::Lease lease = fixture.must_acquire("g");
  EXPECT_EQ(lease.stage().name(), "convert");
  EXPECT_THAT(lease.evaluation_files(), ::testing::ElementsAre("v.jsonl"));
}

TEST(LeasesTest, AGangWithAnotherDataRootIsRefusedByName) {
  CoordinatorFixture fixture;
  v1::RegisterGangRequest request;
  request.mutable_gang()->set_id("g");
  request.mutable_gang()->set_device("cpu");
  request.mutable_gang()->add_ranks()->set_node("node7");
  request.set_data_root("/shared/moe");
  for (const std::string id : {"", "another"}) {
    request.set_root_id(id);
    const absl::Status status = fixture.coordinator().register_gang(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                ::testing::AllOf(HasSubstr("--data-root /shared/moe on node7"),
                                 HasSubstr(id.empty() ? "no .moe-root-id" : id), HasSubstr(fixture.root().string()),
                                 HasSubstr(CoordinatorFixture::kRootId), HasSubstr("mount")));
  }
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 0);
  request.set_root_id(CoordinatorFixture::kRootId);
  EXPECT_TRUE(fixture.coordinator().register_gang(request).ok());
  fixture.submit(one_stage());
  EXPECT_EQ(fixture.must_acquire("g").root_id(), CoordinatorFixture::kRootId)
      << "every rank looks again before every job";
}

TEST(LeasesTest, TheBudgetIsFiveFailuresWithoutACheckpoint) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const auto fail = [&] {
    ASSERT_TRUE(
        fixture.complete("g", fixture.must_acquire("g"), v1::ATTEMPT_OUTCOME_RETRYABLE, {}, "a rank was lost").ok());
  };
  std::vector<int> waits;
  for (int i = 1; i <= 4; ++i) {
    fail();
    EXPECT_EQ(fixture.state(job), "QUEUED");
    int seconds = 0;
    while (!fixture.acquire("g")) {
      fixture.pass(1s);
      ++seconds;
    }
    waits.push_back(seconds);
    if (i == 2) {  // a newly committed step makes the budget whole again
      ASSERT_TRUE(fixture.commit("g", fixture.must_acquire("g"), 7).ok());
      EXPECT_EQ(fixture.job(job).failures(), 0);
    }
  }
  EXPECT_THAT(waits, ::testing::ElementsAre(0, 30, 0, 30));
  ASSERT_TRUE(
      fixture.commit("g", fixture.must_acquire("g"), 7).ok());  // the same step by a later attempt is no progress
  EXPECT_EQ(fixture.job(job).failures(), 2);
  for (const int wait : {60, 120}) {
    fail();
    EXPECT_FALSE(fixture.acquire("g"));
    EXPECT_THAT(fixture.job(job).pending_explanation(), HasSubstr("before it is tried again"));
    fixture.pass(std::chrono::seconds(wait - 1));
    EXPECT_FALSE(fixture.acquire("g"));
    fixture.pass(2s);
    ASSERT_TRUE(fixture.acquire("g"));
  }
  fail();
  EXPECT_EQ(fixture.state(job), "FAILED");
  EXPECT_EQ(fixture.job(job).reason(), "ATTEMPT_FAILED");
  EXPECT_EQ(fixture.job(job).message(), "a rank was lost");
  ASSERT_TRUE(fixture.coordinator().retry(fixture.control(job)).ok());
  EXPECT_EQ(fixture.job(job).failures(), 0);
  EXPECT_TRUE(fixture.acquire("g"));
}

TEST(LeasesTest, ALauncherThatStartsItsGangAgainGivesUpTheOldLeaseAtOnce) {
  CoordinatorFixture fixture;
  fixture.register_gang("g1", 1, "launcher");
  fixture.register_gang("other", 1, "another launcher");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g1");
  fixture.register_gang("g1", 1, "launcher");  // the same process again: nothing happens
  EXPECT_EQ(fixture.state(job), "ASSIGNED");
  fixture.register_gang("g2", 1, "launcher", 71);
  EXPECT_EQ(fixture.state(job), "QUEUED");
  EXPECT_EQ(fixture.job(job).reason(), "GANG_RESTARTED");
  EXPECT_EQ(fixture.job(job).attempts(0).message(), "gang g1 ended with exit code 71 and was started again as g2");
  EXPECT_EQ(fixture.commit("g1", lease, 3).code(), kAborted);  // a dead gang takes nothing up
  EXPECT_EQ(fixture.heartbeat("g1", lease).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(fixture.acquire("g2")) << "its machine has just failed the job, and another is there";
  EXPECT_EQ(fixture.must_acquire("other").attempt(), 2);
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 2);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(LeasesTest, TwoLivingGangsOfOneLauncherIdDoNotEvictEachOther) {
  CoordinatorFixture fixture;
  fixture.register_gang("g1", 1, "gang-1");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g1");
  v1::RegisterGangRequest clone;
  clone.set_root_id(CoordinatorFixture::kRootId);
  clone.mutable_gang()->set_id("g2");
  clone.mutable_gang()->set_launcher_id("gang-1");
  clone.mutable_gang()->set_device("cpu");
  clone.mutable_gang()->add_ranks();
  for (int i = 0; i < 10; ++i) {
    fixture.pass(3s);
    ASSERT_TRUE(fixture.heartbeat("g1", lease).ok());
    const absl::Status status = fixture.coordinator().register_gang(clone).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(std::string(status.message()), ::testing::AllOf(HasSubstr("gang g1"), HasSubstr("'gang-1'"),
                                                                HasSubstr("MOE_LAUNCHER_ID"), HasSubstr("in 15.0 s")));
  }
  EXPECT_EQ(fixture.job(job).attempt(), 1);
  EXPECT_EQ(fixture.coordinator().list_gangs({})->gangs_size(), 1);
  // Its predecessor is silent: by hand, without a word of how it ended, a launcher may start the next after a lease.
  fixture.pass(14s);
  EXPECT_EQ(fixture.coordinator().register_gang(clone).status().code(), absl::StatusCode::kAlreadyExists);
  fixture.pass(2s);
  EXPECT_TRUE(fixture.coordinator().register_gang(clone).ok());
  EXPECT_EQ(fixture.must_acquire("g2").attempt(), 2);
  // And if it was not dead, it is the one that goes, and comes only once.
  v1::RegisterGangRequest first = clone;
  first.mutable_gang()->set_id("g1");
  first.mutable_gang()->set_previous_exit_code(75);
  EXPECT_EQ(fixture.heartbeat("g1", lease).status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = fixture.coordinator().register_gang(first).status();
  EXPECT_EQ(status.code(), kAborted);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("gang g1 must end"), HasSubstr("g2"), HasSubstr("MOE_LAUNCHER_ID")));
  EXPECT_EQ(fixture.coordinator().list_gangs({})->gangs_size(), 1);
}

TEST(LeasesTest, ALauncherThatStartsItsGangAgainTellsHowTheOneBeforeEnded) {
  CoordinatorFixture fixture;
  fixture.register_gang("g1", 1, "launcher");
  const std::string job = fixture.submit(one_stage()) + "-work";
  fixture.must_acquire("g1");
  fixture.register_gang("g2", 1, "launcher", 137);
  EXPECT_EQ(fixture.job(job).attempts(0).message(),
            "gang g1 ended with exit code 137 (signal 9) and was started again as g2");
  fixture.must_acquire("g2");
  fixture.register_gang("g3", 1, "launcher", 70);
  EXPECT_EQ(fixture.job(job).attempts(1).message(), "gang g2 ended with exit code 70 and was started again as g3");
}

TEST(LeasesTest, AGangThatLeavesGivesItsJobBack) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  fixture.must_acquire("g");
  ASSERT_TRUE(fixture.deregister_gang("g", "preempted").ok());
  ASSERT_TRUE(fixture.deregister_gang("g", "preempted").ok());
  EXPECT_EQ(fixture.state(job), "QUEUED");
  EXPECT_EQ(fixture.coordinator().server_info().gangs(), 0);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(LeasesTest, RepeatedCommitsAndCompletionsAreOnes) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::Lease lease = fixture.must_acquire("g");
  const v1::CommitCheckpointRequest commit = fixture.commit_request("g", lease, 4);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(fixture.coordinator().commit_checkpoint(commit).ok());
  EXPECT_EQ(fixture.job(job).checkpoints_size(), 1);
  v1::CommitCheckpointRequest other = commit;
  other.mutable_checkpoint()->set_digest("00");
  EXPECT_EQ(fixture.coordinator().commit_checkpoint(other).status().code(), absl::StatusCode::kAlreadyExists);
  other.mutable_checkpoint()->set_path("elsewhere");
  EXPECT_EQ(fixture.coordinator().commit_checkpoint(other).status().code(), absl::StatusCode::kInvalidArgument);

  v1::CompleteAttemptRequest complete = fixture.complete_request("g", lease, v1::ATTEMPT_OUTCOME_SUCCEEDED);
  const std::filesystem::path record = fixture.root() / complete.output_path() / "STAGE.json";
  std::filesystem::remove(record);
  EXPECT_THAT(std::string(fixture.coordinator().complete_attempt(complete).status().message()),
              HasSubstr("--data-root"));
  complete = fixture.complete_request("g", lease, v1::ATTEMPT_OUTCOME_SUCCEEDED);
  ASSERT_TRUE(fixture.coordinator().complete_attempt(complete).ok());
  std::filesystem::remove(record);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(fixture.coordinator().complete_attempt(complete).ok());
  EXPECT_EQ(fixture.observed().finished["SUCCEEDED"], 1);
  EXPECT_EQ(fixture.commit("g", lease, 5).code(), kAborted);
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

TEST(LeasesTest, AHundredRacingGangsAndOneJob) {
  constexpr int kRounds = 100, kGangs = 100;
  CoordinatorFixture fixture;
  for (int i = 0; i < kGangs; ++i) fixture.register_gang("g" + std::to_string(i));
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string job = fixture.submit(one_stage("race")) + "-work";
    std::atomic<int> leases{0}, winner{-1};
    std::atomic<bool> go{false};
    std::vector<std::thread> gangs;
    for (int i = 0; i < kGangs; ++i) {
      gangs.emplace_back([&, i] {
        while (!go) std::this_thread::yield();
        if (fixture.acquire("g" + std::to_string(i))) {
          ++leases;
          winner = i;
        }
      });
    }
    go = true;
    for (std::thread& gang : gangs) gang.join();
    wrong += leases != 1 || fixture.job(job).attempt() != 1;
    const std::string gang = "g" + std::to_string(winner);
    ASSERT_TRUE(fixture.complete(gang, fixture.must_acquire(gang)).ok());
  }
  std::cout << kRounds << " rounds of " << kGangs << " racing AcquireLease calls, " << wrong
            << " without exactly one lease\n";
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace moe
