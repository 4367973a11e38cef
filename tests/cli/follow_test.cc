// Commands that follow: watch, wait and submit --wait; the coordinator may go away meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using grpc::Status;
using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// A pipeline whose history is revealed call by call: one event and the state after it.
struct HistoryScript {
  std::vector<std::string> states;
  std::atomic<int> calls{0};

  Status operator()(const v1::WatchRequest& request, v1::WatchResponse& response) {
    const int call = calls++;
    const int shown = std::min<int>(call + 1, static_cast<int>(states.size()));
    for (int64_t revision = request.after_revision() + 1; revision <= shown; ++revision) {
      v1::Event& event = *response.add_events();
      event.set_revision(revision);
      event.set_pipeline_id("p-1");
      event.set_type(states[revision - 1]);
      event.set_message("event " + std::to_string(revision));
      event.mutable_time()->set_seconds(1'700'000'000 + revision);
    }
    response.set_revision(std::max<int64_t>(shown, request.after_revision()));
    response.set_state(states[shown - 1]);
    response.set_has_ended(response.state() == "SUCCEEDED" || response.state() == "FAILED" ||
                           response.state() == "CANCELED");
    return Status::OK;
  }
};

class FollowTest : public ::testing::Test {
 protected:
  FollowTest() {
    coordinator_.on_watch = [this](const v1::WatchRequest& request, v1::WatchResponse& response) {
      return history_(request, response);
    };
    coordinator_.on_get_pipeline = [this](const v1::GetRequest& request, v1::Pipeline& pipeline) {
      if (request.id() != "p" && request.id() != "p-1") return Status(StatusCode::NOT_FOUND, "no such pipeline");
      pipeline = pipeline_;
      return Status::OK;
    };
    coordinator_.on_get_job = [this](const v1::GetRequest& request, v1::Job& job) {
      job = job_;
      job.set_id(request.id());
      return Status::OK;
    };
    coordinator_.on_submit = [](const auto&, v1::SubmitResponse& response) {
      response.set_pipeline_id("p-1");
      return Status::OK;
    };
    pipeline_.set_id("p-1");
  }

  ProcessResult submit_and_wait() {
    std::ofstream(folder_ / "p.yaml") << "apiVersion: moe/v1\nkind: Job\nname: p\n"
                                         "evaluate: {input: ./m, data: [{path: e.jsonl}]}\n";
    return run_moectl(coordinator_, {"submit", "p.yaml", "--wait"}, folder_.path());
  }

  ScriptedCoordinator coordinator_;
  TempDir folder_;
  HistoryScript history_;
  v1::Pipeline pipeline_;
  v1::Job job_;
};

TEST_F(FollowTest, WaitIsZeroOnlyForSuccess) {
  history_.states = {"RUNNING", "RUNNING", "SUCCEEDED"};
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "p-1"}).exit_code, 0);
  for (const char* end : {"FAILED", "CANCELED"}) {
    history_.calls = 0;
    history_.states = {"RUNNING", end};
    pipeline_.set_reason("stage1: the loss is not finite");
    const ProcessResult result = run_moectl(coordinator_, {"wait", "p-1"});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr(std::string("p-1 ") + end + ": stage1: the loss is not finite"));
  }
}

TEST_F(FollowTest, WaitForOtherStates) {
  history_.states = {"RUNNING", "PAUSED"};
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "p-1", "--for", "paused"}).exit_code, 0);
  history_.calls = 0;
  history_.states = {"RUNNING", "FAILED"};
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "p-1", "--for", "ended"}).exit_code, 0);
  history_.calls = 0;
  history_.states = {"RUNNING", "SUCCEEDED"};
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "p-1", "--for", "failed"}).exit_code, 1);
  history_.calls = 0;
  history_.states = {"RUNNING", "HELD"};
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "p-1", "--for", "held"}).exit_code, 0);
}

TEST_F(FollowTest, WaitIsSixWhenTheTimeIsOver) {
  history_.states = {"RUNNING"};
  const ProcessResult result = run_moectl(coordinator_, {"wait", "p-1", "--timeout", "0.3"});
  EXPECT_EQ(result.exit_code, 6);
  EXPECT_THAT(result.err, HasSubstr("p-1 is RUNNING after 0.3 s, not SUCCEEDED; it goes on"));
}

TEST_F(FollowTest, AnUnknownIdIsThree) {
  coordinator_.on_watch = [](const auto&, auto&) { return Status(StatusCode::NOT_FOUND, "no pipeline or job 'x'"); };
  EXPECT_EQ(run_moectl(coordinator_, {"wait", "x"}).exit_code, 3);
  EXPECT_EQ(run_moectl(coordinator_, {"watch", "x"}).exit_code, 3);
}

TEST_F(FollowTest, AHeldGateEndsTheWaitWithTheCommandThatApproves) {
  history_.states = {"RUNNING", "HELD"};
  v1::StageState& gate = *pipeline_.add_stages();
  gate.set_name("good");
  gate.set_is_gate(true);
  gate.set_status("HELD");
  gate.set_message("evaluate.loss 2.5 is not < 2");
  for (const ProcessResult& result : {submit_and_wait(), run_moectl(coordinator_, {"wait", "p-1"})}) {
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err,
                AllOf(HasSubstr("p-1 is HELD"), HasSubstr("gate good holds it: evaluate.loss 2.5 is not < 2"),
                      HasSubstr("moectl approve p-1 --gate good")));
  }
}

TEST_F(FollowTest, SubmitAndWaitShowsEventsAndProgress) {
  history_.states = {"RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"};
  v1::StageState& stage = *pipeline_.add_stages();
  stage.set_name("stage1");
  stage.set_job_id("p-1-stage1");
  stage.set_job_state(v1::JOB_STATE_RUNNING);
  job_.set_state(v1::JOB_STATE_RUNNING);
  job_.mutable_progress()->set_phase("training");
  job_.mutable_progress()->set_step(120);
  job_.mutable_progress()->set_target(220);
  job_.mutable_progress()->set_loss(2.10343);
  job_.mutable_progress()->set_tokens_per_second(5210.4);
  const ProcessResult result = submit_and_wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "p-1\n");
  EXPECT_THAT(result.err, HasSubstr("stage1  training step 120/220  loss 2.1034  5210 tokens/s\n"));
  for (int event = 1; event <= 4; ++event) EXPECT_THAT(result.err, HasSubstr("event " + std::to_string(event) + "\n"));
  EXPECT_THAT(result.err, HasSubstr("p-1 SUCCEEDED after"));
}

TEST_F(FollowTest, SubmitAndWaitOutlivesTheCoordinator) {
  history_.states = {"RUNNING"};
  std::ofstream(folder_ / "p.yaml")
      << "apiVersion: moe/v1\nkind: Job\nname: p\nevaluate: {input: ./m, data: [{path: e.jsonl}]}\n";
  RunningMoectl moectl(coordinator_.address(), {"submit", (folder_ / "p.yaml").string(), "--wait"});
  ASSERT_TRUE(RunningMoectl::waits_for([&] { return history_.calls > 2; })) << moectl.err();
  coordinator_.stop();
  history_.states = {"RUNNING", "SUCCEEDED"};
  ASSERT_TRUE(moectl.says("is away")) << moectl.err();
  coordinator_.start();
  const ProcessResult result = moectl.finish();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "p-1\n");
}

TEST_F(FollowTest, WatchPrintsEveryEventOnce) {
  for (int i = 0; i < 40; ++i) history_.states.push_back("RUNNING");
  history_.states.push_back("SUCCEEDED");
  const ProcessResult result = run_moectl(coordinator_, {"watch", "p-1"});
  EXPECT_EQ(result.exit_code, 0);
  std::istringstream lines(result.out);
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) EXPECT_THAT(line, HasSubstr("event " + std::to_string(++count)));
  EXPECT_EQ(count, 41);
  history_.calls = 0;
  const ProcessResult json = run_moectl(coordinator_, {"watch", "p-1", "-o", "json", "--after", "39"});
  std::istringstream json_lines(json.out);
  int64_t revision = 39;
  while (std::getline(json_lines, line)) {
    EXPECT_EQ(nlohmann::json::parse(line)["revision"], std::to_string(++revision));
  }
  EXPECT_EQ(revision, 41);
}

}  // namespace
}  // namespace moe::testing
