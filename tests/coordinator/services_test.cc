#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <iostream>

#include "common/file_io.h"
#include "coordinator/rpc_fixture.h"
#include "testing/background_process.h"

// Both services over real gRPC: calls that wait, clients that go away, codes.
namespace moe {
namespace {

using namespace std::chrono_literals;
using testing::eventually;
using testing::one_stage;
using testing::RpcFixture;
using SteadyClock = std::chrono::steady_clock;

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

/// Something that happens while a call waits. Whichever comes first, the call must answer.
template <typename Call, typename Happening>
double seconds_of_waking(Call call, Happening happening) {
  const auto started = SteadyClock::now();
  std::future<void> waiting = std::async(std::launch::async, call);
  waiting.wait_for(300ms);
  happening();
  waiting.get();
  return seconds_since(started);
}

TEST(ServicesTest, WatchWakesOnChangeAndAtItsDeadline) {
  RpcFixture rpc;
  v1::WatchRequest request;
  request.set_wait_seconds(20);
  v1::WatchResponse response;
  const double woken = seconds_of_waking(
      [&] {
        grpc::ClientContext context;
        EXPECT_TRUE(rpc.jobs->Watch(&context, request, &response).ok());
      },
      [&] { rpc.core.submit(one_stage()); });
  EXPECT_LT(woken, 5);
  EXPECT_GT(response.events_size(), 0);

  request.set_after_revision(rpc.core.coordinator().watch({})->revision());
  request.set_wait_seconds(1);
  const auto started = SteadyClock::now();
  grpc::ClientContext context;
  EXPECT_TRUE(rpc.jobs->Watch(&context, request, &response).ok());
  EXPECT_EQ(response.events_size(), 0);
  EXPECT_EQ(response.revision(), request.after_revision());
  EXPECT_GE(seconds_since(started), 0.95);
  EXPECT_LT(seconds_since(started), 5);
}

TEST(ServicesTest, AcquireLeaseWakesWhenThereIsWorkAndAtItsDeadline) {
  RpcFixture rpc;
  rpc.core.register_gang("g");
  v1::AcquireLeaseRequest request;
  request.set_gang_id("g");
  request.set_wait_seconds(20);
  v1::AcquireLeaseResponse response;
  std::string id;
  const double woken = seconds_of_waking(
      [&] {
        grpc::ClientContext context;
        EXPECT_TRUE(rpc.workers->AcquireLease(&context, request, &response).ok());
      },
      [&] { id = rpc.core.submit(one_stage()); });
  EXPECT_LT(woken, 5);
  EXPECT_EQ(response.lease().job_id(), id + "-work");
  ASSERT_TRUE(rpc.core.complete("g", response.lease()).ok());

  request.set_wait_seconds(1);
  const auto started = SteadyClock::now();
  grpc::ClientContext context;
  EXPECT_TRUE(rpc.workers->AcquireLease(&context, request, &response).ok());
  EXPECT_FALSE(response.has_lease());
  EXPECT_GE(seconds_since(started), 0.95);
}

TEST(ServicesTest, ReadLogsWakesWhenTheFileGrowsAndWhenTheAttemptEnds) {
  RpcFixture rpc;
  rpc.core.register_gang("g");
  const std::string job = rpc.core.submit(one_stage()) + "-work";
  const v1::Lease lease = rpc.core.must_acquire("g");
  const std::filesystem::path folder = rpc.core.root() / job / "attempts/0001/logs";
  make_directories(folder);
  v1::ReadLogsRequest request;
  request.set_job_id(job);
  request.set_wait_seconds(20);
  v1::ReadLogsResponse response;
  const auto read = [&] {
    grpc::ClientContext context;
    EXPECT_TRUE(rpc.jobs->ReadLogs(&context, request, &response).ok());
  };
  EXPECT_LT(seconds_of_waking(read, [&] { write_file_atomically(folder / "gang.log", "event=hello\n"); }), 5);
  EXPECT_EQ(response.data(), "event=hello\n");
  EXPECT_FALSE(response.attempt_ended());
  request.set_offset(response.next_offset());
  EXPECT_LT(seconds_of_waking(read, [&] { ASSERT_TRUE(rpc.core.complete("g", lease).ok()); }), 5);
  EXPECT_TRUE(response.attempt_ended());
  EXPECT_EQ(response.terminal_state(), "SUCCEEDED");
}

TEST(ServicesTest, AClientThatWentAwayGetsNoLease) {
  for (const bool by_deadline : {false, true}) {
    RpcFixture rpc;
    rpc.core.register_gang("gone");
    rpc.core.register_gang("here");
    v1::AcquireLeaseRequest request;
    request.set_gang_id("gone");
    request.set_wait_seconds(30);
    grpc::ClientContext context;
    if (by_deadline) context.set_deadline(std::chrono::system_clock::now() + 300ms);
    v1::AcquireLeaseResponse response;
    auto waiting =
        std::async(std::launch::async, [&] { return rpc.workers->AcquireLease(&context, request, &response); });
    waiting.wait_for(200ms);
    if (!by_deadline) context.TryCancel();
    EXPECT_FALSE(waiting.get().ok());
    ASSERT_TRUE(eventually(5s, [&] { return rpc.answered("AcquireLease", "CANCELLED") == 1; }));
    const std::string job = rpc.core.submit(one_stage()) + "-work";
    EXPECT_EQ(rpc.core.state(job), "QUEUED");
    EXPECT_EQ(rpc.core.must_acquire("here").attempt(), 1);
  }
}

TEST(ServicesTest, ManyWaitingCallsHoldNoThreadAndOneGetsTheJob) {
  constexpr int kGangs = 200;
  RpcFixture rpc;
  std::vector<grpc::ClientContext> contexts(kGangs);
  std::vector<v1::AcquireLeaseRequest> requests(kGangs);
  std::vector<v1::AcquireLeaseResponse> responses(kGangs);
  std::atomic<int> answered{0}, failed{0}, leased{0};
  for (int i = 0; i < kGangs; ++i) {
    const std::string gang = "g" + std::to_string(i);
    rpc.core.register_gang(gang);
    requests[i].set_gang_id(gang);
    requests[i].set_wait_seconds(30);
    rpc.workers->async()->AcquireLease(&contexts[i], &requests[i], &responses[i], [&, i](const grpc::Status& status) {
      failed += !status.ok();
      leased += responses[i].has_lease();
      ++answered;
    });
  }
  rpc.core.submit(one_stage());
  ASSERT_TRUE(eventually(10s, [&] { return leased == 1; }));
  EXPECT_EQ(answered, 1);
  const auto started = SteadyClock::now();
  rpc.close();
  EXPECT_TRUE(eventually(10s, [&] { return answered == kGangs; }));
  std::cout << kGangs << " waiting calls, 1 lease; on close the others were answered in " << seconds_since(started)
            << " s\n";
  EXPECT_LT(seconds_since(started), 2);
  EXPECT_EQ(leased, 1);
  EXPECT_EQ(rpc.answered("AcquireLease", "OK"), kGangs - failed);
}

TEST(ServicesTest, CodesAndMessagesComeThrough) {
  RpcFixture rpc;
  rpc.core.register_gang("g");
  const std::string id = rpc.core.submit(one_stage());
  const auto code_of = [](auto call) {
    grpc::ClientContext context;
    return call(&context).error_code();
  };
  v1::GetRequest get;
  get.set_id("nobody");
  v1::Job job;
  grpc::ClientContext context;
  const grpc::Status missing = rpc.jobs->GetJob(&context, get, &job);
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(missing.error_message(), ::testing::HasSubstr("no job 'nobody'; `moectl get jobs` lists them"));
  EXPECT_EQ(rpc.answered("GetJob", "NOT_FOUND"), 1);

  v1::SubmitRequest submit;
  submit.set_request_id("r");
  v1::SubmitResponse submitted;
  EXPECT_EQ(code_of([&](auto* c) { return rpc.jobs->Submit(c, submit, &submitted); }),
            grpc::StatusCode::INVALID_ARGUMENT);
  *submit.mutable_spec() = one_stage();
  EXPECT_EQ(code_of([&](auto* c) { return rpc.jobs->Submit(c, submit, &submitted); }), grpc::StatusCode::OK);
  submit.set_user("other");
  EXPECT_EQ(code_of([&](auto* c) { return rpc.jobs->Submit(c, submit, &submitted); }),
            grpc::StatusCode::ALREADY_EXISTS);
  v1::ControlRequest control = rpc.core.control(id);
  v1::ControlResponse controlled;
  EXPECT_EQ(code_of([&](auto* c) { return rpc.jobs->Resume(c, control, &controlled); }),
            grpc::StatusCode::FAILED_PRECONDITION);
  v1::CompleteAttemptRequest complete;
  complete.set_gang_id("g");
  complete.set_job_id(id + "-work");
  complete.set_attempt(3);
  complete.set_outcome(v1::ATTEMPT_OUTCOME_RELEASED);
  v1::CompleteAttemptResponse completed;
  EXPECT_EQ(code_of([&](auto* c) { return rpc.workers->CompleteAttempt(c, complete, &completed); }),
            grpc::StatusCode::ABORTED);
  v1::ServerInfo info;
  EXPECT_EQ(code_of([&](auto* c) { return rpc.jobs->GetServerInfo(c, v1::GetServerInfoRequest(), &info); }),
            grpc::StatusCode::OK);
  EXPECT_EQ(info.queued_jobs(), 2);
  EXPECT_EQ(info.data_root(), rpc.core.root().string());
}

}  // namespace
}  // namespace moe
