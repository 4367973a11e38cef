// What becomes of a call: exit codes by gRPC's codes, retries with the same request id, JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "cli/run_moectl.h"

namespace moe::testing {
namespace {

using grpc::Status;
using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(CallsTest, EveryStatusHasItsExitCode) {
  const std::vector<std::pair<StatusCode, int>> cases{
      {StatusCode::INVALID_ARGUMENT, 2},  {StatusCode::NOT_FOUND, 3},
      {StatusCode::UNAVAILABLE, 5},       {StatusCode::DEADLINE_EXCEEDED, 6},
      {StatusCode::ALREADY_EXISTS, 7},    {StatusCode::FAILED_PRECONDITION, 7},
      {StatusCode::ABORTED, 7},           {StatusCode::OUT_OF_RANGE, 7},
      {StatusCode::INTERNAL, 1},          {StatusCode::RESOURCE_EXHAUSTED, 1},
      {StatusCode::PERMISSION_DENIED, 1}, {StatusCode::UNIMPLEMENTED, 1},
      {StatusCode::DATA_LOSS, 1},         {StatusCode::UNKNOWN, 1},
      {StatusCode::CANCELLED, 5}};
  ScriptedCoordinator coordinator;
  for (const auto& [code, exit_code] : cases) {
    coordinator.on_control = [code = code](const auto&, const auto&, auto&) { return Status(code, "the reason why"); };
    const ProcessResult result = run_moectl(coordinator, {"pause", "a-1"});
    EXPECT_EQ(result.exit_code, exit_code) << "gRPC code " << code;
    EXPECT_EQ(result.out, "");
    if (code != StatusCode::DEADLINE_EXCEEDED) {
      EXPECT_THAT(result.err, HasSubstr("the reason why"));
    }
  }
  std::cout << cases.size() << " codes\n";
}

TEST(CallsTest, WhileItIsUnavailableTheSameRequestIsTriedThreeTimes) {
  ScriptedCoordinator coordinator;
  std::vector<std::string> ids;
  size_t failures = 2;
  coordinator.on_control = [&](const std::string& verb, const v1::ControlRequest& request,
                               v1::ControlResponse& response) {
    ids.push_back(request.request_id());
    if (ids.size() <= failures) return Status(StatusCode::UNAVAILABLE, "busy");
    response.set_id(verb + " " + request.id() + " by " + request.user() + ", " + request.comment());
    response.set_state("STOPPING");
    return Status::OK;
  };
  ProcessResult result = run_moectl(coordinator, {"cancel", "a-1", "--comment", "enough"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "cancel a-1 by ada, enough STOPPING\n");
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1u);
  EXPECT_THAT(ids[0], MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));

  const std::string first = ids[0];
  ids.clear();
  failures = 100;
  result = run_moectl(coordinator, {"cancel", "a-1"});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_NE(ids[0], first) << "another command is another request";
  EXPECT_THAT(result.err, AllOf(HasSubstr("no coordinator at " + coordinator.address() + " (busy)"),
                                HasSubstr("start one with moe-coordinator or give --coordinator")));
}

TEST(CallsTest, SeveralIdsAreAllTriedAndTheFirstFailureDecides) {
  ScriptedCoordinator coordinator;
  std::set<std::string> request_ids;
  coordinator.on_control = [&](const auto& verb, const v1::ControlRequest& request, v1::ControlResponse& response) {
    request_ids.insert(request.request_id());
    if (request.id() == "gone") return Status(StatusCode::NOT_FOUND, "no job 'gone'");
    if (request.id() == "done") return Status(StatusCode::FAILED_PRECONDITION, "job done is SUCCEEDED");
    response.set_id(request.id());
    response.set_state(verb == "resume" ? "QUEUED" : "PAUSED");
    return Status::OK;
  };
  const ProcessResult result = run_moectl(coordinator, {"resume", "a", "gone", "done", "b"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "a QUEUED\nb QUEUED\n");
  EXPECT_THAT(result.err, AllOf(HasSubstr("gone: no job 'gone'"), HasSubstr("done: job done is SUCCEEDED")));
  EXPECT_EQ(request_ids.size(), 4u);
}

TEST(CallsTest, GatesAreDecided) {
  ScriptedCoordinator coordinator;
  v1::DecideGateRequest seen;
  coordinator.on_decide_gate = [&](const v1::DecideGateRequest& request, v1::ControlResponse& response) {
    seen = request;
    response.set_id("p-1");
    response.set_state(request.approve() ? "RUNNING" : "FAILED");
    return Status::OK;
  };
  EXPECT_EQ(run_moectl(coordinator, {"approve", "p", "--gate", "good", "--comment", "fine"}).out, "p-1 RUNNING\n");
  EXPECT_TRUE(seen.approve());
  EXPECT_EQ(seen.pipeline_id() + seen.gate() + seen.comment() + seen.user(), "pgoodfineada");
  EXPECT_EQ(run_moectl(coordinator, {"reject", "p"}).out, "p-1 FAILED\n");
  EXPECT_FALSE(seen.approve());
  EXPECT_EQ(seen.gate(), "");
}

TEST(CallsTest, JsonHasTheSchemasNamesAndZeros) {
  ScriptedCoordinator coordinator;
  coordinator.on_list_jobs = [](const v1::ListRequest&, v1::ListJobsResponse& response) {
    v1::Job& job = *response.add_jobs();
    job.set_id("p-1-stage1");
    job.set_pipeline_id("p-1");
    job.set_state(v1::JOB_STATE_QUEUED);
    return Status::OK;
  };
  coordinator.on_control = [](const auto&, const v1::ControlRequest& request, v1::ControlResponse& response) {
    response.set_id(request.id());
    response.set_state("PAUSED");
    return Status::OK;
  };
  const ProcessResult jobs = run_moectl(coordinator, {"get", "jobs", "-o", "json"});
  ASSERT_EQ(jobs.exit_code, 0) << jobs.err;
  const nlohmann::json list = nlohmann::json::parse(jobs.out);
  EXPECT_EQ(list["jobs"][0]["pipeline_id"], "p-1");
  EXPECT_EQ(list["jobs"][0]["state"], "JOB_STATE_QUEUED");
  EXPECT_EQ(list["jobs"][0]["attempt"], 0);
  EXPECT_EQ(list["next_page_token"], "");
  // Several answers: one a line.
  const ProcessResult paused = run_moectl(coordinator, {"-o", "json", "pause", "a", "b"});
  std::istringstream lines(paused.out);
  std::string line, ids;
  while (std::getline(lines, line)) ids += nlohmann::json::parse(line)["id"];
  EXPECT_EQ(ids, "ab");
}

TEST(CallsTest, PagesAreFollowedUpToTheLimit) {
  ScriptedCoordinator coordinator;
  std::vector<int> sizes;
  coordinator.on_list_jobs = [&](const v1::ListRequest& request, v1::ListJobsResponse& response) {
    sizes.push_back(request.page_size());
    const int first = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    for (int i = first; i < std::min(1203, first + request.page_size()); ++i)
      response.add_jobs()->set_id("job-" + std::to_string(i));
    if (first + request.page_size() < 1203) response.set_next_page_token(std::to_string(first + request.page_size()));
    return Status::OK;
  };
  ProcessResult result = run_moectl(coordinator, {"get", "jobs", "--limit", "0"});
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1203 + 2);
  EXPECT_THAT(sizes, ::testing::ElementsAre(500, 500, 500));
  EXPECT_EQ(result.err, "");
  result = run_moectl(coordinator, {"get", "jobs", "--limit", "700"});
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 700 + 2);
  EXPECT_THAT(result.err, HasSubstr("only the newest 700 are shown; --limit 0 shows all"));
}

TEST(CallsTest, VersionsOfBothSides) {
  ScriptedCoordinator coordinator;
  coordinator.on_server_info = [](const auto&, v1::ServerInfo& info) {
    info.set_version("1.2.3");
    info.set_schema_version(4);
    return Status::OK;
  };
  EXPECT_THAT(run_moectl(coordinator, {"version"}).out, HasSubstr("coordinator  1.2.3, database schema 4"));
  EXPECT_EQ(nlohmann::json::parse(run_moectl(coordinator, {"version", "-o", "json"}).out)["coordinator"], "1.2.3");
  const ProcessResult alone = run_moectl("127.0.0.1:1", {"version"});
  EXPECT_EQ(alone.exit_code, 0);
  EXPECT_THAT(alone.out, HasSubstr("moectl "));
}

TEST(CallsTest, HealthOfASickCoordinatorIsOne) {
  ScriptedCoordinator coordinator;
  coordinator.on_server_info = [](const auto&, auto&) { return Status(StatusCode::INTERNAL, "disk full"); };
  const ProcessResult result = run_moectl(coordinator, {"health"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("disk full"));
}

}  // namespace
}  // namespace moe::testing
