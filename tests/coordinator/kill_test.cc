#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <iostream>
#include <mutex>
#include <set>
#include <thread>

#include "common/error.h"
#include "common/rng.h"
#include "coordinator/coordinator_fixture.h"
#include "coordinator/server_process.h"

// kill -9 of the program at random instants while many users submit: what it acknowledged is there when it starts
// again, and what it did not can be asked for again under the same request id.
namespace moe {
namespace {

using testing::ServerProcess;
using testing::TempDir;

/// (request id, pipeline id or "" without an answer)
using Answers = std::vector<std::pair<std::string, std::string>>;

grpc::Status submit(v1::JobService::Stub& jobs, const std::string& request_id, std::string& pipeline_id) {
  v1::SubmitRequest request;
  request.set_request_id(request_id);
  *request.mutable_spec() = testing::one_stage();
  v1::SubmitResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const grpc::Status status = jobs.Submit(&context, request, &response);
  if (status.ok()) pipeline_id = response.pipeline_id();
  return status;
}

Answers submit_until_killed(ServerProcess& server, int round, int users, std::chrono::milliseconds after) {
  Answers answers;
  std::mutex mutex;
  std::atomic<bool> is_killed{false};
  std::vector<std::thread> threads;
  const std::unique_ptr<v1::JobService::Stub> jobs = server.jobs();
  for (int user = 0; user < users; ++user) {
    threads.emplace_back([&, user] {
      for (int n = 0; !is_killed; ++n) {
        const std::string request_id = concat(round, "-", user, "-", n);
        std::string pipeline_id;
        const grpc::Status status = submit(*jobs, request_id, pipeline_id);
        EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE) << status.error_message();
        const std::lock_guard lock(mutex);
        answers.emplace_back(request_id, pipeline_id);
      }
    });
  }
  std::this_thread::sleep_for(after);
  server.process().signal(SIGKILL);
  is_killed = true;
  for (std::thread& thread : threads) thread.join();
  server.process().wait(std::chrono::seconds(5));
  return answers;
}

TEST(CoordinatorKillTest, NothingAcknowledgedIsLost) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kRounds = 12, kUsers = 64;
  CounterRng rng(kSeed, kStreamTest);
  const TempDir folder;
  auto server = std::make_unique<ServerProcess>(folder.path());
  int acknowledged = 0, unknown = 0, lost = 0, changed = 0;
  std::set<std::string> pipelines;
  for (int round = 0; round < kRounds; ++round) {
    const Answers answers =
        submit_until_killed(*server, round, kUsers, std::chrono::milliseconds(100 + rng.below(400)));
    server = std::make_unique<ServerProcess>(folder.path());
    const auto jobs = server->jobs();
    for (const auto& [request_id, pipeline_id] : answers) {
      std::string again;
      ASSERT_TRUE(submit(*jobs, request_id, again).ok());
      pipelines.insert(again);
      if (pipeline_id.empty()) {
        ++unknown;
        continue;
      }
      ++acknowledged;
      changed += again != pipeline_id;
      v1::GetRequest get;
      get.set_id(pipeline_id);
      v1::Pipeline pipeline;
      grpc::ClientContext context;
      lost += !jobs->GetPipeline(&context, get, &pipeline).ok();
    }
  }
  v1::ServerInfo info;
  grpc::ClientContext context;
  ASSERT_TRUE(server->jobs()->GetServerInfo(&context, {}, &info).ok());
  std::cout << "seed " << kSeed << ": " << kRounds << " kills, " << kUsers << " in flight, " << acknowledged
            << " acknowledged, " << lost << " lost; " << unknown << " without an answer, asked again; "
            << info.queued_jobs() << " jobs of " << pipelines.size() << " pipelines\n";
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(changed, 0);
  EXPECT_GT(acknowledged, kRounds * 10);
  EXPECT_EQ(info.queued_jobs(), static_cast<int>(pipelines.size()));  // one job each, none twice
}

TEST(CoordinatorKillTest, AFullDiskEndsItWithACauseAndLosesNothing) {
  const TempDir folder;
  std::vector<std::pair<std::string, std::string>> acknowledged;
  {
    // Files of at most 1,000 KiB: to SQLite the same as a full disk.
    ServerProcess server(folder.path(), "trap '' XFSZ; ulimit -f 1000;");
    const auto jobs = server.jobs();
    std::string pipeline_id;
    for (int n = 0; n < 2000 && submit(*jobs, concat("full-", n), pipeline_id).ok(); ++n)
      acknowledged.emplace_back(concat("full-", n), pipeline_id);
    EXPECT_EQ(server.process().wait(std::chrono::seconds(10)), 74);
    EXPECT_NE(server.process().output().find("event=store_failed"), std::string::npos) << server.process().output();
    EXPECT_NE(server.process().output().find("make room"), std::string::npos);
  }
  ServerProcess server(folder.path());
  const auto jobs = server.jobs();
  int lost = 0;
  for (const auto& [request_id, pipeline_id] : acknowledged) {
    std::string again;
    ASSERT_TRUE(submit(*jobs, request_id, again).ok());
    lost += again != pipeline_id;
  }
  std::cout << acknowledged.size() << " acknowledged before the disk was full, " << lost << " lost\n";
  EXPECT_EQ(lost, 0);
  EXPECT_GT(acknowledged.size(), 3u);
  std::string pipeline_id;
  EXPECT_TRUE(submit(*jobs, "room-again", pipeline_id).ok());
}

}  // namespace
}  // namespace moe
