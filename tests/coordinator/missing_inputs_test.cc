// An input that a gang does not see: tried elsewhere, waited for, and in the end nobody's but the user's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "coordinator/gang_faults.h"

namespace moe {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::CoordinatorFixture;
using testing::gang;
using ::testing::HasSubstr;
using testing::one_stage;
using testing::refuse;
using testing::submit_many;

TEST(QuarantineTest, AMissingInputIsTriedElsewhereAndThenIsPermanent) {
  CoordinatorFixture fixture;
  for (const char* id : {"a", "b", "c"}) fixture.register_gang(id);
  const std::string job = submit_many(fixture, 1)[0];
  fixture.clock().advance(1us);
  const std::string next = fixture.submit(one_stage("next")) + "-work";
  ASSERT_TRUE(refuse(fixture, "a", fixture.must_acquire("a"), v1::REFUSAL_KIND_INPUTS, "/not/there").ok());
  EXPECT_EQ(fixture.state(job), "QUEUED");
  EXPECT_EQ(fixture.job(job).reason(), "INPUTS_UNREADABLE");
  EXPECT_EQ(fixture.must_acquire("a").job_id(), next) << "others come first";
  ASSERT_TRUE(refuse(fixture, "b", fixture.must_acquire("b"), v1::REFUSAL_KIND_INPUTS, "/not/there").ok());
  EXPECT_EQ(fixture.state(job), "QUEUED");
  ASSERT_TRUE(refuse(fixture, "c", fixture.must_acquire("c"), v1::REFUSAL_KIND_INPUTS, "/not/there").ok());
  EXPECT_EQ(fixture.state(job), "FAILED") << "nobody has it";
  EXPECT_THAT(fixture.job(job).message(), HasSubstr("/not/there"));
  for (const char* id : {"a", "b", "c"}) EXPECT_NE(gang(fixture, id).state(), "quarantined");
  // A retry is tried everywhere again.
  ASSERT_TRUE(fixture.coordinator().retry(fixture.control(job)).ok());
  ASSERT_TRUE(fixture.complete("c", fixture.must_acquire("c")).ok());
  EXPECT_EQ(fixture.state(job), "SUCCEEDED");
}

TEST(QuarantineTest, AnInputThatTheCoordinatorSeesToBeMissingFailsAtOnce) {
  CoordinatorFixture fixture;
  fixture.register_gang("only");
  // The coordinator's machine has the folders; the data root is all gangs'.
  for (const std::string& file : {std::string("/etc/no-such.jsonl"), std::string("/etc/no-such-model/config.json"),
                                  (fixture.root() / "no" / "such.jsonl").string()}) {
    const std::string job = submit_many(fixture, 1)[0];
    ASSERT_TRUE(refuse(fixture, "only", fixture.must_acquire("only"), v1::REFUSAL_KIND_INPUTS, file).ok());
    EXPECT_EQ(fixture.state(job), "FAILED") << file;
    EXPECT_EQ(fixture.job(job).reason(), "INPUTS_UNREADABLE");
  }
  EXPECT_EQ(fixture.observed().restarted.size(), 0u);
}

TEST(QuarantineTest, AnInputThatNobodySeesWaitsForAGangThatIsAwayForAMoment) {
  CoordinatorFixture fixture;
  fixture.register_gang("no-mount");
  const std::string file = "/only/on/good/gangs.jsonl";
  const std::string job = submit_many(fixture, 1)[0];
  for (int looks = 1; looks <= 2; ++looks) {
    ASSERT_TRUE(refuse(fixture, "no-mount", fixture.must_acquire("no-mount"), v1::REFUSAL_KIND_INPUTS, file).ok());
    EXPECT_EQ(fixture.state(job), "QUEUED");
    EXPECT_EQ(fixture.job(job).reason(), "INPUTS_UNREADABLE");
    EXPECT_EQ(fixture.job(job).failures(), 0);
    EXPECT_EQ(fixture.job(job).attempts(looks - 1).fault(), v1::ATTEMPT_FAULT_UNSEEN);
    EXPECT_THAT(fixture.job(job).pending_explanation(),
                AllOf(HasSubstr("waits 31 s"), HasSubstr("no gang that is there sees what it reads"),
                      HasSubstr("ends FAILED in ")));
    EXPECT_FALSE(fixture.acquire("no-mount"));
    fixture.pass(31s);
  }
  fixture.clock().advance(5min);
  fixture.restart();
  EXPECT_THAT(fixture.job(job).pending_explanation(), HasSubstr("ends FAILED in 121 s")) << "nobody could come";
  fixture.register_gang("no-mount");
  fixture.register_gang("good");
  EXPECT_FALSE(fixture.acquire("no-mount")) << "whoever comes has it first";
  const v1::Lease lease = fixture.must_acquire("good");
  ASSERT_TRUE(fixture.heartbeat("good", lease).ok());
  EXPECT_FALSE(fixture.job(job).has_inputs_missing_since());
  ASSERT_TRUE(fixture.complete("good", lease).ok());
  EXPECT_EQ(fixture.state(job), "SUCCEEDED");
  EXPECT_NE(gang(fixture, "no-mount").state(), "quarantined");
}

TEST(QuarantineTest, AnInputThatNobodySeesFailsWhenTheGraceIsOverOrTwoRefusedIt) {
  CoordinatorFixture fixture;
  fixture.register_gang("a");
  const std::string job = submit_many(fixture, 1)[0];
  const auto refuse_for = [&](std::chrono::seconds time) {
    int looks = 0;
    for (std::chrono::seconds passed{0}; passed <= time; passed += 1s) {
      if (const std::optional<v1::Lease> lease = fixture.acquire("a")) {
        EXPECT_TRUE(refuse(fixture, "a", *lease, v1::REFUSAL_KIND_INPUTS, "/no/such/file.jsonl").ok());
        ++looks;
      }
      if (passed < time) fixture.pass(1s);
    }
    return looks;
  };
  for (const char* round : {"submitted", "retried"}) {
    EXPECT_EQ(refuse_for(119s), 4) << round;
    EXPECT_EQ(fixture.state(job), "QUEUED") << round;
    fixture.pass(1s);
    EXPECT_EQ(refuse_for(0s), 1);
    EXPECT_EQ(fixture.state(job), "FAILED") << round;
    EXPECT_EQ(fixture.job(job).reason(), "INPUTS_UNREADABLE");
    ASSERT_TRUE(fixture.coordinator().retry(fixture.control(job)).ok());
  }
  EXPECT_EQ(refuse_for(0s), 1);
  EXPECT_EQ(fixture.state(job), "QUEUED");
  ASSERT_TRUE(fixture.deregister_gang("a").ok());
  fixture.register_gang("b");
  fixture.pass(30s);
  ASSERT_TRUE(refuse(fixture, "b", fixture.must_acquire("b"), v1::REFUSAL_KIND_INPUTS, "/no/such/file.jsonl").ok());
  EXPECT_EQ(fixture.state(job), "FAILED") << "two gangs do not have it";
}

TEST(QuarantineTest, TheGraceRunsWhileNobodyIsThereWhoMightSeeTheInputs) {
  CoordinatorFixture fixture;
  fixture.register_gang("no-mount");
  const std::string job = submit_many(fixture, 1)[0];
  const auto refuse_it = [&] {
    std::optional<v1::Lease> lease;
    for (int i = 0; i < 20 && !(lease = fixture.acquire("no-mount")); ++i) fixture.pass(10s);
    ASSERT_TRUE(lease);
    ASSERT_TRUE(refuse(fixture, "no-mount", *lease, v1::REFUSAL_KIND_INPUTS, "/only/on/good/gangs.jsonl").ok());
    EXPECT_EQ(fixture.state(job), "QUEUED");
  };
  refuse_it();
  // Another gang comes, has older work for longer than the grace, and is away for a moment.
  fixture.register_gang("good");
  for (int i = 0; i < 30; ++i) {
    fixture.pass(10s);
    EXPECT_FALSE(fixture.acquire("no-mount"));
    fixture.register_gang("good");  // heard
  }
  ASSERT_TRUE(fixture.deregister_gang("good").ok());
  refuse_it();
  // A user holds the job, to mount the storage.
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(job)).ok());
  for (int i = 0; i < 30; ++i) {
    fixture.pass(10s);
    EXPECT_FALSE(fixture.acquire("no-mount"));
  }
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(job)).ok());
  refuse_it();
}

TEST(QuarantineTest, AFileThatTheCoordinatorSeesIsTheGangsFault) {
  CoordinatorFixture fixture;
  fixture.register_gang("no-mount");
  std::ofstream(fixture.root() / "data.jsonl") << "{}";
  const std::vector<std::string> jobs = submit_many(fixture, 7);
  const std::string file = fixture.root() / "data.jsonl";
  int taken = 0;
  for (int i = 0; i < 200; ++i) {  // a long time, however it waits
    fixture.pass(10s);
    if (const std::optional<v1::Lease> lease = fixture.acquire("no-mount")) {
      ASSERT_TRUE(refuse(fixture, "no-mount", *lease, v1::REFUSAL_KIND_INPUTS, file).ok());
      ++taken;
    }
  }
  EXPECT_EQ(gang(fixture, "no-mount").state(), "quarantined");
  EXPECT_LE(taken, 4) << "two, and one more when the quarantine had ended";
  for (const std::string& job : jobs) {
    EXPECT_EQ(fixture.state(job), "QUEUED");
    EXPECT_EQ(fixture.job(job).failures(), 0);
  }
  EXPECT_THAT(fixture.job(jobs[6]).pending_explanation(), HasSubstr("1 connected, 0 idle, 1 quarantined"));
  fixture.register_gang("good");
  for (size_t i = 0; i < jobs.size(); ++i) {
    for (int tries = 0; tries < 5 && !fixture.acquire("good"); ++tries) fixture.pass(1min);
    ASSERT_TRUE(fixture.complete("good", fixture.must_acquire("good")).ok());
  }
  for (const std::string& job : jobs) EXPECT_EQ(fixture.state(job), "SUCCEEDED");
}

}  // namespace
}  // namespace moe
