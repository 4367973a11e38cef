// logs: every byte once, over pieces, attempts and restarts of the coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "cli/run_moectl.h"
#include "common/rng.h"

namespace moe::testing {
namespace {

using grpc::Status;
using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Logs of attempts, served in pieces of at most `piece` bytes.
struct LogScript {
  std::vector<std::string> attempts;
  bool is_last_attempt_over = true;
  std::string terminal_state = "SUCCEEDED";
  size_t piece = 64 * 1024;
  std::atomic<int> calls{0};

  Status operator()(const v1::ReadLogsRequest& request, v1::ReadLogsResponse& response) {
    ++calls;
    const int newest = static_cast<int>(attempts.size());
    const int attempt = request.attempt() > 0 ? request.attempt() : newest;
    if (attempt > newest) return {StatusCode::NOT_FOUND, "no such attempt"};
    response.set_attempt(attempt);
    if (attempt == 0) return Status::OK;
    const std::string& log = attempts[attempt - 1];
    const size_t offset = std::min<size_t>(request.offset(), log.size());
    const std::string data = log.substr(offset, piece);
    response.set_data(data);
    response.set_next_offset(static_cast<int64_t>(offset + data.size()));
    const bool is_all = offset + data.size() == log.size();
    response.set_attempt_ended(is_all && (attempt < newest || is_last_attempt_over));
    if (response.attempt_ended() && attempt == newest) response.set_terminal_state(terminal_state);
    return Status::OK;
  }
};

std::string random_log(uint64_t seed, int lines) {
  CounterRng rng(seed, kStreamTest);
  std::string text;
  for (int i = 0; i < lines; ++i)
    text += "event=step step=" + std::to_string(i) + " loss=" + std::to_string(rng.uniform()) + "\n";
  return text;
}

ScriptedCoordinator::Answer<v1::ReadLogsRequest, v1::ReadLogsResponse> served_by(LogScript& script) {
  return [&script](const v1::ReadLogsRequest& request, v1::ReadLogsResponse& response) {
    return script(request, response);
  };
}

TEST(LogsTest, EveryByteOnceWhateverThePieces) {
  ScriptedCoordinator coordinator;
  LogScript script;
  script.attempts = {random_log(1, 400), random_log(2, 500)};
  script.piece = 777;
  coordinator.on_read_logs = served_by(script);
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j"}).out, script.attempts[1]);
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j", "--attempt", "1"}).out, script.attempts[0]);
  const ProcessResult followed = run_moectl(coordinator, {"logs", "j", "-f"});
  EXPECT_EQ(followed.out, script.attempts[1]);
  EXPECT_EQ(followed.exit_code, 0);
  EXPECT_THAT(followed.err, HasSubstr("j SUCCEEDED"));
  std::cout << script.attempts[1].size() << " bytes in pieces of 777, seeds 1 and 2\n";
}

TEST(LogsTest, FollowingAFailedJobIsOne) {
  ScriptedCoordinator coordinator;
  LogScript script;
  script.attempts = {"line\n"};
  script.terminal_state = "FAILED";
  coordinator.on_read_logs = served_by(script);
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j", "-f"}).exit_code, 1);
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j"}).exit_code, 0)
      << "without -f the log was printed, which is what was asked";
}

TEST(LogsTest, GoesOnWhereItWasWhenTheCoordinatorComesBack) {
  ScriptedCoordinator coordinator;
  LogScript script;
  const std::string log = random_log(3, 3000);
  script.attempts = {log.substr(0, log.size() / 2)};
  script.is_last_attempt_over = false;
  coordinator.on_read_logs = served_by(script);
  RunningMoectl moectl(coordinator.address(), {"logs", "j", "-f"});
  ASSERT_TRUE(RunningMoectl::waits_for([&] { return script.calls > 2; }));
  coordinator.stop();
  script.attempts = {log};
  script.is_last_attempt_over = true;
  ASSERT_TRUE(moectl.says("is away")) << moectl.err();
  coordinator.start();
  const ProcessResult result = moectl.finish();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(result.out == log) << result.out.size() << " bytes, expected " << log.size();
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("trying again for up to 60 s"), HasSubstr("is back"), HasSubstr("j SUCCEEDED")));
}

TEST(LogsTest, IsFiveWhenTheCoordinatorStaysAway) {
  ScriptedCoordinator coordinator;
  LogScript script;
  script.attempts = {"first line\n"};
  script.is_last_attempt_over = false;
  coordinator.on_read_logs = served_by(script);
  RunningMoectl moectl(coordinator.address(), {"logs", "j", "-f", "--outage", "1"});
  ASSERT_TRUE(RunningMoectl::waits_for([&] { return script.calls > 1; }));
  coordinator.stop();
  const ProcessResult result = moectl.finish();
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(result.out, "first line\n");
  EXPECT_THAT(result.err, HasSubstr("no coordinator at " + coordinator.address()));
}

TEST(LogsTest, GoesOnWithTheNextAttempt) {
  ScriptedCoordinator coordinator;
  LogScript script;
  script.attempts = {"attempt one\n"};
  script.terminal_state = "";
  coordinator.on_read_logs = served_by(script);
  coordinator.on_get_job = [](const v1::GetRequest&, v1::Job& job) {
    job.set_state(v1::JOB_STATE_QUEUED);
    job.set_message("the gang was lost");
    return Status::OK;
  };
  RunningMoectl moectl(coordinator.address(), {"logs", "j", "-f"});
  ASSERT_TRUE(moectl.says("attempt 1 has ended; the job is QUEUED: the gang was lost")) << moectl.err();
  coordinator.stop();
  script.attempts.push_back("attempt two\n");
  script.terminal_state = "SUCCEEDED";
  coordinator.start();
  const ProcessResult result = moectl.finish();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "attempt one\nattempt two\n");
  EXPECT_THAT(result.err, HasSubstr("attempt 2 begins"));
}

TEST(LogsTest, ARanksLogMayComeLaterWhileFollowing) {
  ScriptedCoordinator coordinator;
  int calls = 0;
  coordinator.on_read_logs = [&](const v1::ReadLogsRequest& request, v1::ReadLogsResponse& response) {
    EXPECT_EQ(request.rank(), 1);
    if (++calls == 1) return Status::OK;  // still queued
    if (calls == 2) return Status(StatusCode::NOT_FOUND, "attempt 1 has no log of rank 1");
    response.set_attempt(1);
    response.set_next_offset(5);
    response.set_attempt_ended(true);
    response.set_terminal_state("SUCCEEDED");
    if (request.offset() == 0) response.set_data("late\n");
    return Status::OK;
  };
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j", "-f", "--rank", "1"}).out, "late\n");
  calls = 1;
  EXPECT_EQ(run_moectl(coordinator, {"logs", "j", "-f", "--rank", "1"}).exit_code, 3) << "nothing was there to follow";
}

TEST(LogsTest, AnInterruptSaysThatTheJobRunsOn) {
  ScriptedCoordinator coordinator;
  LogScript script;
  script.attempts = {"line\n"};
  script.is_last_attempt_over = false;
  coordinator.on_read_logs = served_by(script);
  RunningMoectl moectl(coordinator.address(), {"logs", "job-7", "-f"});
  ASSERT_TRUE(RunningMoectl::waits_for([&] { return script.calls > 1; }));
  moectl.interrupt();
  const ProcessResult result = moectl.finish();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.out, "line\n");
  EXPECT_THAT(result.err, HasSubstr("moectl: interrupted; job-7 keeps running"));
}

TEST(LogsTest, APipelineIsToldItsJobs) {
  ScriptedCoordinator coordinator;
  coordinator.on_read_logs = [](const auto&, auto&) { return Status(StatusCode::NOT_FOUND, "no job 'p'"); };
  EXPECT_EQ(run_moectl(coordinator, {"logs", "p"}).exit_code, 3);
  coordinator.on_get_pipeline = [](const auto&, v1::Pipeline& pipeline) {
    pipeline.set_id("p-1");
    pipeline.add_stages()->set_job_id("p-1-convert");
    pipeline.add_stages()->set_is_gate(true);
    pipeline.add_stages()->set_job_id("p-1-stage1");
    return Status::OK;
  };
  const ProcessResult result = run_moectl(coordinator, {"logs", "p"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("p-1 is a pipeline; name one of its jobs: p-1-convert, p-1-stage1"));
}

}  // namespace
}  // namespace moe::testing
