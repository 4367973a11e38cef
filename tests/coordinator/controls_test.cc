#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/coordinator_fixture.h"

// Cancel, pause, resume and retry, of a job in every state and of whole pipelines.
namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::chain;
using testing::CoordinatorFixture;
using ::testing::HasSubstr;
using testing::one_stage;

/// A coordinator with a job in the state that is asked for.
struct Scene {
  CoordinatorFixture fixture;
  std::string pipeline, job;
  v1::Lease lease;

  explicit Scene(const std::string& state) {
    fixture.register_gang("g");
    if (state == "BLOCKED") {
      pipeline = fixture.submit(testing::fork());
      job = pipeline + "-c";
      return;
    }
    pipeline = fixture.submit(one_stage());
    job = pipeline + "-work";
    if (state == "PAUSED") fixture.coordinator().pause(fixture.control(job)).value();
    if (state == "CANCELED") fixture.coordinator().cancel(fixture.control(job)).value();
    if (state == "QUEUED" || state == "PAUSED" || state == "CANCELED") return;
    lease = fixture.must_acquire("g");
    if (state != "ASSIGNED") fixture.heartbeat("g", lease).value();
    if (state == "STOPPING") fixture.coordinator().pause(fixture.control(job)).value();
    absl::Status ended;
    if (state == "SUCCEEDED") ended = fixture.complete("g", lease);
    if (state == "FAILED") ended = fixture.complete("g", lease, v1::ATTEMPT_OUTCOME_PERMANENT);
    EXPECT_TRUE(ended.ok()) << ended;
  }

  absl::StatusOr<v1::ControlResponse> act(const std::string& verb, const std::string& id) {
    const v1::ControlRequest request = fixture.control(id, "because");
    if (verb == "cancel") return fixture.coordinator().cancel(request);
    if (verb == "pause") return fixture.coordinator().pause(request);
    if (verb == "resume") return fixture.coordinator().resume(request);
    return fixture.coordinator().retry(request);
  }
};

TEST(ControlsTest, AJobInEveryState) {
  struct Row {
    const char *state, *cancel, *pause, *resume, *retry;  // the state it leads to, or "-"
  };
  const Row table[] = {
      {"BLOCKED", "CANCELED", "PAUSED", "-", "-"},
      {"QUEUED", "CANCELED", "PAUSED", "-", "-"},
      {"ASSIGNED", "STOPPING", "STOPPING", "-", "-"},
      {"RUNNING", "STOPPING", "STOPPING", "-", "-"},
      {"STOPPING", "STOPPING", "STOPPING", "-", "-"},
      {"PAUSED", "CANCELED", "PAUSED", "QUEUED", "-"},
      {"SUCCEEDED", "-", "-", "-", "-"},
      {"FAILED", "-", "-", "-", "QUEUED"},
      {"CANCELED", "CANCELED", "-", "-", "-"},
  };
  for (const Row& row : table) {
    for (const auto& [verb, expected] :
         {std::pair{"cancel", row.cancel}, {"pause", row.pause}, {"resume", row.resume}, {"retry", row.retry}}) {
      Scene scene(row.state);
      ASSERT_EQ(scene.fixture.state(scene.job), row.state);
      const auto response = scene.act(verb, scene.job);
      if (std::string(expected) == "-") {
        EXPECT_EQ(response.status().code(), absl::StatusCode::kFailedPrecondition) << row.state << " " << verb;
        EXPECT_EQ(scene.fixture.state(scene.job), row.state) << verb;
      } else {
        ASSERT_TRUE(response.ok()) << row.state << " " << verb << ": " << response.status();
        EXPECT_EQ(response->state(), expected) << row.state << " " << verb;
        EXPECT_EQ(scene.fixture.state(scene.job), expected);
        // A job that will not run ends its pipeline; one that is paused stops it, unless there are others (BLOCKED: a
        // and b are queued).
        const bool is_paused = std::string(expected) == "PAUSED" && std::string(row.state) != "BLOCKED";
        EXPECT_EQ(scene.fixture.pipeline(scene.pipeline).phase(), std::string(expected) == "CANCELED" ? "FAILED"
                                                                  : is_paused                         ? "PAUSED"
                                                                                                      : "RUNNING")
            << row.state << " " << verb;
        const bool was_so = row.state == std::string(expected) && !(row.state == std::string("STOPPING") &&
                                                                    verb == std::string("cancel"));  // cancel outranks
        EXPECT_EQ(!response->note().empty(), was_so) << row.state << " " << verb << ": " << response->note();
      }
      EXPECT_EQ(scene.fixture.snapshot(), scene.fixture.snapshot_of_fresh_load()) << row.state << " " << verb;
    }
  }
}

TEST(ControlsTest, AStoppingJobIsToldAndBecomesWhatWasWished) {
  struct Row {
    const char* verb;
    v1::AttemptOutcome outcome;  // LOST: the gang says nothing any more
    const char *job, *pipeline;
  };
  const Row table[] = {
      {"pause", v1::ATTEMPT_OUTCOME_RELEASED, "PAUSED", "PAUSED"},
      {"pause", v1::ATTEMPT_OUTCOME_RETRYABLE, "PAUSED", "PAUSED"},
      {"pause", v1::ATTEMPT_OUTCOME_LOST, "PAUSED", "PAUSED"},
      {"pause", v1::ATTEMPT_OUTCOME_SUCCEEDED, "SUCCEEDED", "SUCCEEDED"},
      {"cancel", v1::ATTEMPT_OUTCOME_RELEASED, "CANCELED", "FAILED"},
      {"cancel", v1::ATTEMPT_OUTCOME_PERMANENT, "CANCELED", "FAILED"},
      {"cancel", v1::ATTEMPT_OUTCOME_LOST, "CANCELED", "FAILED"},
      {"cancel", v1::ATTEMPT_OUTCOME_SUCCEEDED, "SUCCEEDED", "SUCCEEDED"},
  };
  for (const Row& row : table) {
    Scene scene("RUNNING");
    CoordinatorFixture& fixture = scene.fixture;
    EXPECT_EQ(fixture.heartbeat("g", scene.lease)->directive(), v1::DIRECTIVE_CONTINUE);
    ASSERT_TRUE(scene.act(row.verb, scene.job).ok());
    EXPECT_EQ(fixture.heartbeat("g", scene.lease)->directive(), v1::DIRECTIVE_RELEASE);
    ASSERT_TRUE(fixture.commit("g", scene.lease, 3).ok());  // its last checkpoint counts
    if (row.outcome == v1::ATTEMPT_OUTCOME_LOST) {
      fixture.pass(15s);
    } else {
      ASSERT_TRUE(fixture.complete("g", scene.lease, row.outcome).ok());
    }
    EXPECT_EQ(fixture.state(scene.job), row.job) << row.verb << " " << row.outcome;
    EXPECT_EQ(fixture.pipeline(scene.pipeline).phase(), row.pipeline) << row.verb << " " << row.outcome;
    if (row.outcome == v1::ATTEMPT_OUTCOME_RELEASED) {
      EXPECT_EQ(fixture.job(scene.job).message(),
                std::string(row.verb) == "pause" ? "paused by ada: because" : "canceled by ada: because");
    }
    EXPECT_EQ(fixture.heartbeat("g", scene.lease).status().code(), absl::StatusCode::kAborted);
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
  }
}

TEST(ControlsTest, CancelOutranksPause) {
  Scene scene("STOPPING");
  ASSERT_TRUE(scene.act("cancel", scene.job).ok());
  ASSERT_TRUE(scene.fixture.complete("g", scene.lease, v1::ATTEMPT_OUTCOME_RELEASED).ok());
  EXPECT_EQ(scene.fixture.state(scene.job), "CANCELED");
}

TEST(ControlsTest, AResumedJobGoesOnFromItsCheckpoint) {
  Scene scene("RUNNING");
  ASSERT_TRUE(scene.act("pause", scene.job).ok());
  ASSERT_TRUE(scene.fixture.commit("g", scene.lease, 3).ok());
  ASSERT_TRUE(scene.fixture.complete("g", scene.lease, v1::ATTEMPT_OUTCOME_RELEASED).ok());
  EXPECT_FALSE(scene.fixture.acquire("g"));
  ASSERT_TRUE(scene.act("resume", scene.job).ok());
  const v1::Lease lease = scene.fixture.must_acquire("g");
  EXPECT_EQ(lease.attempt(), 2);
  EXPECT_EQ(lease.checkpoints(0).step(), 3);
  EXPECT_EQ(scene.fixture.job(scene.job).failures(), 0);
}

TEST(ControlsTest, AJobPausedBeforeItsTurnWaitsForResume) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::fork());
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id + "-c")).ok());
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(id + "-c")).ok());
  EXPECT_EQ(fixture.state(id + "-c"), "BLOCKED");  // its input is not there yet
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id + "-c")).ok());
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  EXPECT_EQ(fixture.story(id), "PAUSED: a SUCCEEDED, b SUCCEEDED, c PAUSED");
  EXPECT_FALSE(fixture.acquire("g"));
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(id)).ok());  // the pipeline's resume means it too
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  EXPECT_EQ(fixture.pipeline(id).phase(), "SUCCEEDED");
}

TEST(ControlsTest, AWholePipelineIsPausedAndResumed) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::fork());
  const v1::Lease lease = fixture.must_acquire("g");
  EXPECT_EQ(fixture.coordinator().pause(fixture.control(id))->state(), "PAUSED");
  EXPECT_EQ(fixture.story(id), "PAUSED: a STOPPING, b PAUSED, c BLOCKED");
  EXPECT_THAT(fixture.coordinator().pause(fixture.control(id))->note(), HasSubstr("PAUSED before"));
  EXPECT_THAT(std::string(fixture.coordinator().resume(fixture.control(id)).status().message()),
              HasSubstr("still saving its checkpoint"));
  ASSERT_TRUE(fixture.complete("g", lease, v1::ATTEMPT_OUTCOME_SUCCEEDED).ok());
  EXPECT_EQ(fixture.story(id), "PAUSED: a SUCCEEDED, b PAUSED, c BLOCKED");
  EXPECT_FALSE(fixture.acquire("g"));
  fixture.restart();
  EXPECT_EQ(fixture.coordinator().resume(fixture.control(id))->state(), "RUNNING");
  EXPECT_EQ(fixture.story(id), "RUNNING: a SUCCEEDED, b QUEUED, c QUEUED");
  EXPECT_EQ(fixture.coordinator().resume(fixture.control(id)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ControlsTest, AWholePipelineIsCanceled) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::fork());
  const v1::Lease lease = fixture.must_acquire("g");
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id + "-b")).ok());
  EXPECT_EQ(fixture.coordinator().cancel(fixture.control(id))->state(), "CANCELED");
  EXPECT_EQ(fixture.story(id), "CANCELED: a STOPPING, b CANCELED, c CANCELED");
  EXPECT_EQ(fixture.heartbeat("g", lease)->directive(), v1::DIRECTIVE_RELEASE);
  ASSERT_TRUE(fixture.complete("g", lease, v1::ATTEMPT_OUTCOME_RELEASED).ok());
  EXPECT_EQ(fixture.story(id), "CANCELED: a CANCELED, b CANCELED, c CANCELED");
  for (const std::string& target : {id, id + "-a"}) {
    EXPECT_EQ(fixture.coordinator().cancel(fixture.control(target))->state(), "CANCELED") << "said twice is no error";
    EXPECT_THAT(fixture.coordinator().cancel(fixture.control(target))->note(), HasSubstr("CANCELED before"));
    EXPECT_EQ(fixture.coordinator().retry(fixture.control(target)).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(fixture.coordinator().resume(fixture.control(target)).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
}

// Paused one by one: the pipeline is PAUSED when nothing of it moves any more, for everyone who asks, and until
// something does.
TEST(ControlsTest, APipelineIsPausedWhenItsJobsAre) {
  CoordinatorFixture fixture;
  fixture.register_gang("g");
  const std::string id = fixture.submit(testing::fork());
  const v1::Lease lease = fixture.must_acquire("g");
  const auto phases = [&] {
    v1::ListRequest list;
    list.add_states("PAUSED");
    const bool is_listed = fixture.coordinator().list_pipelines(list)->pipelines_size() == 1;
    v1::WatchRequest watch;
    watch.set_id(id);
    EXPECT_EQ(fixture.coordinator().watch(watch)->state(), fixture.pipeline(id).phase());
    EXPECT_EQ(is_listed, fixture.pipeline(id).phase() == "PAUSED");
    EXPECT_EQ(fixture.snapshot(), fixture.snapshot_of_fresh_load());
    return fixture.story(id);
  };
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id + "-b")).ok());
  EXPECT_EQ(phases(), "RUNNING: a ASSIGNED, b PAUSED, c BLOCKED");
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id + "-a")).ok());
  EXPECT_EQ(phases(), "RUNNING: a STOPPING, b PAUSED, c BLOCKED") << "it still saves its checkpoint";
  ASSERT_TRUE(fixture.complete("g", lease, v1::ATTEMPT_OUTCOME_RELEASED).ok());
  EXPECT_EQ(phases(), "PAUSED: a PAUSED, b PAUSED, c BLOCKED");
  fixture.restart();
  EXPECT_EQ(phases(), "PAUSED: a PAUSED, b PAUSED, c BLOCKED");
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(id + "-a")).ok());
  EXPECT_EQ(phases(), "RUNNING: a QUEUED, b PAUSED, c BLOCKED");
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  EXPECT_EQ(phases(), "RUNNING: a SUCCEEDED, b PAUSED, c QUEUED") << "the engine was never paused";
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  EXPECT_EQ(phases(), "PAUSED: a SUCCEEDED, b PAUSED, c SUCCEEDED");
  EXPECT_EQ(fixture.coordinator().resume(fixture.control(id))->state(), "RUNNING");
  ASSERT_TRUE(fixture.complete("g", fixture.must_acquire("g")).ok());
  EXPECT_EQ(phases(), "SUCCEEDED: a SUCCEEDED, b SUCCEEDED, c SUCCEEDED");
}

TEST(ControlsTest, ADecisionSaidTwiceIsNoErrorAndAnotherOneIs) {
  for (const bool approve : {true, false}) {
    CoordinatorFixture fixture;
    fixture.register_gang("g");
    const std::string id = fixture.submit(chain());
    fixture.run_chain_to_its_gate("g");
    ASSERT_TRUE(fixture.decide(id, approve, "parity").ok());
    const std::string story = fixture.story(id);
    const auto again = fixture.decide(id, approve, "parity");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_THAT(again->note(), HasSubstr(approve ? "gate 'parity' was approved before, by ada"
                                                 : "gate 'parity' was rejected before, by ada"));
    EXPECT_EQ(fixture.decide(id, !approve, "parity").status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(fixture.story(id), story);
  }
}

TEST(ControlsTest, ARepeatedControlDoesNothingTwice) {
  CoordinatorFixture fixture;
  const std::string job = fixture.submit(one_stage()) + "-work";
  const v1::ControlRequest pause = fixture.control(job);
  ASSERT_TRUE(fixture.coordinator().pause(pause).ok());
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(job)).ok());
  EXPECT_EQ(fixture.coordinator().pause(pause)->state(), "PAUSED");  // the answer of then
  EXPECT_EQ(fixture.state(job), "QUEUED");
}

TEST(ControlsTest, TheAuditNamesWhoDidIt) {
  CoordinatorFixture fixture;
  const std::string id = fixture.submit(chain());
  ASSERT_TRUE(fixture.coordinator().pause(fixture.control(id, "maintenance")).ok());
  ASSERT_TRUE(fixture.coordinator().resume(fixture.control(id)).ok());
  ASSERT_TRUE(fixture.coordinator().cancel(fixture.control(id)).ok());
  std::map<std::string, std::string> said;
  v1::WatchRequest watch;
  const auto found_events = fixture.coordinator().watch(watch);
  for (const v1::Event& event : found_events->events()) {
    EXPECT_EQ(event.actor(), "user ada");
    if (event.job_id().empty()) said[event.type()] = event.message();
  }
  EXPECT_EQ(said["PAUSED"], "paused by ada: maintenance");
  EXPECT_EQ(said["RESUMED"], "resumed by ada");
  EXPECT_TRUE(said.contains("CANCELED") && said.contains("SUBMITTED"));
}

}  // namespace
}  // namespace moe
