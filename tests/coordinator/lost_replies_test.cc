#include <gtest/gtest.h>

#include <iostream>
#include <mutex>

#include "common/error.h"
#include "common/rng.h"
#include "coordinator/rpc_fixture.h"

// A proxy between client and coordinator that does what is asked and then loses the answer. Clients repeat; nothing
// happens twice.
namespace moe {
namespace {

using testing::RpcFixture;

/// Forwards the four calls whose repetition could do harm. Thread-safe.
class LosingProxy {
 public:
  LosingProxy(RpcFixture& rpc, uint64_t seed) : jobs_(*this, rpc), workers_(*this, rpc), rng_(seed, kStreamTest) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&jobs_);
    builder.RegisterService(&workers_);
    server_ = builder.BuildAndStart();
    const auto channel = grpc::CreateChannel(concat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    jobs = v1::JobService::NewStub(channel);
    workers = v1::WorkerService::NewStub(channel);
  }
  ~LosingProxy() { server_->Shutdown(); }

  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::WorkerService::Stub> workers;
  int lost() const { return lost_; }

 private:
  grpc::Status answer(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (rng_.below(2) == 0) return status;
    ++lost_;
    return {grpc::StatusCode::UNAVAILABLE, "the answer was lost"};
  }

  struct Jobs final : v1::JobService::Service {
    Jobs(LosingProxy& proxy, RpcFixture& rpc) : proxy_(proxy), rpc_(rpc) {}
    grpc::Status Submit(grpc::ServerContext*, const v1::SubmitRequest* request, v1::SubmitResponse* response) override {
      grpc::ClientContext context;
      return proxy_.answer(rpc_.jobs->Submit(&context, *request, response));
    }
    LosingProxy& proxy_;
    RpcFixture& rpc_;
  };

  struct Workers final : v1::WorkerService::Service {
    Workers(LosingProxy& proxy, RpcFixture& rpc) : proxy_(proxy), rpc_(rpc) {}
    grpc::Status AcquireLease(grpc::ServerContext*, const v1::AcquireLeaseRequest* request,
                              v1::AcquireLeaseResponse* response) override {
      grpc::ClientContext context;
      return proxy_.answer(rpc_.workers->AcquireLease(&context, *request, response));
    }
    grpc::Status CommitCheckpoint(grpc::ServerContext*, const v1::CommitCheckpointRequest* request,
                                  v1::CommitCheckpointResponse* response) override {
      grpc::ClientContext context;
      return proxy_.answer(rpc_.workers->CommitCheckpoint(&context, *request, response));
    }
    grpc::Status CompleteAttempt(grpc::ServerContext*, const v1::CompleteAttemptRequest* request,
                                 v1::CompleteAttemptResponse* response) override {
      grpc::ClientContext context;
      return proxy_.answer(rpc_.workers->CompleteAttempt(&context, *request, response));
    }
    LosingProxy& proxy_;
    RpcFixture& rpc_;
  };

  Jobs jobs_;
  Workers workers_;
  std::mutex mutex_;
  CounterRng rng_;
  int lost_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

/// Repeats a call until it is answered.
template <typename Call>
void until_answered(Call call) {
  grpc::Status status;
  do {
    grpc::ClientContext context;
    status = call(&context);
  } while (status.error_code() == grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

TEST(LostRepliesTest, NothingHappensTwice) {
  constexpr uint64_t kSeed = 20261124;
  constexpr int kPipelines = 100;
  RpcFixture rpc;
  LosingProxy proxy(rpc, kSeed);
  rpc.core.register_gang("g");
  int twice = 0;
  for (int i = 0; i < kPipelines; ++i) {
    const v1::SubmitRequest submit = rpc.core.submit_request(testing::one_stage());
    v1::SubmitResponse submitted;
    until_answered([&](auto* context) { return proxy.jobs->Submit(context, submit, &submitted); });

    v1::AcquireLeaseRequest acquire;
    acquire.set_gang_id("g");
    v1::AcquireLeaseResponse acquired;
    until_answered([&](auto* context) { return proxy.workers->AcquireLease(context, acquire, &acquired); });
    ASSERT_EQ(acquired.lease().job_id(), submitted.job_ids(0));
    for (const int64_t step : {10, 20}) {
      const v1::CommitCheckpointRequest commit = rpc.core.commit_request("g", acquired.lease(), step);
      v1::CommitCheckpointResponse committed;
      until_answered([&](auto* context) { return proxy.workers->CommitCheckpoint(context, commit, &committed); });
    }
    const v1::CompleteAttemptRequest complete =
        rpc.core.complete_request("g", acquired.lease(), v1::ATTEMPT_OUTCOME_SUCCEEDED);
    v1::CompleteAttemptResponse completed;
    until_answered([&](auto* context) { return proxy.workers->CompleteAttempt(context, complete, &completed); });

    const v1::Job job = rpc.core.job(submitted.job_ids(0));
    twice += job.attempt() != 1 || job.attempts_size() != 1 || job.checkpoints_size() != 2 ||
             job.state() != v1::JOB_STATE_SUCCEEDED;
  }
  v1::ListRequest list;
  list.set_page_size(500);
  std::cout << "seed " << kSeed << ": " << kPipelines << " pipelines, " << proxy.lost() << " answers lost, " << twice
            << " jobs with anything twice\n";
  EXPECT_EQ(twice, 0);
  EXPECT_GT(proxy.lost(), kPipelines * 3);
  EXPECT_EQ(rpc.core.coordinator().list_pipelines(list)->pipelines_size(), kPipelines);
  EXPECT_EQ(rpc.core.coordinator().list_artifacts(list)->artifacts_size(), kPipelines);
  EXPECT_EQ(rpc.core.observed().finished["SUCCEEDED"], kPipelines);
  EXPECT_EQ(rpc.core.observed().fenced, 0);
}

}  // namespace
}  // namespace moe
