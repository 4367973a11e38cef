#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "coordinator/coordinator_fixture.h"
#include "coordinator/services.h"

namespace moe::testing {

/// The services of the coordinator on a port of loopback, in this process.
class RpcFixture {
 public:
  RpcFixture();
  ~RpcFixture();
  RpcFixture(const RpcFixture&) = delete;
  RpcFixture& operator=(const RpcFixture&) = delete;

  /// The coordinator behind it, to be called directly too.
  CoordinatorFixture core;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::WorkerService::Stub> workers;

  /// How often a method was answered with this code, as /metrics tells.
  int answered(const std::string& method, const std::string& code) const;
  /// The orderly end of the program: every waiting call is answered.
  void close();

 private:
  MetricsPage page_;
  CoordinatorMetrics metrics_;
  LongPolls long_polls_;
  JobServiceAdapter job_adapter_;
  WorkerServiceAdapter worker_adapter_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace moe::testing
