#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "moe/v1/job_service.grpc.pb.h"

/// A JobService on a real socket whose answers a test writes: moectl's own behaviour without a coordinator's. A call
/// whose answer was not written is UNIMPLEMENTED; GetPipeline and GetJob then know no id. Answers run in gRPC's
/// threads, one at a time.
namespace moe::testing {

class ScriptedCoordinator {
 public:
  template <typename Request, typename Response>
  using Answer = std::function<grpc::Status(const Request&, Response&)>;

  /// Listens on a free port of the loopback.
  ScriptedCoordinator();
  ~ScriptedCoordinator();

  /// As a kill would: calls in flight are cut off.
  void stop();
  /// On the same port again.
  void start();
  std::string address() const;

  Answer<v1::SubmitRequest, v1::SubmitResponse> on_submit;
  Answer<v1::ListRequest, v1::ListPipelinesResponse> on_list_pipelines;
  Answer<v1::GetRequest, v1::Pipeline> on_get_pipeline;
  Answer<v1::ListRequest, v1::ListJobsResponse> on_list_jobs;
  Answer<v1::GetRequest, v1::Job> on_get_job;
  Answer<v1::ListRequest, v1::ListGangsResponse> on_list_gangs;
  Answer<v1::ListRequest, v1::ListArtifactsResponse> on_list_artifacts;
  Answer<v1::WatchRequest, v1::WatchResponse> on_watch;
  Answer<v1::ReadLogsRequest, v1::ReadLogsResponse> on_read_logs;
  Answer<v1::QueryMetricsRequest, v1::QueryMetricsResponse> on_query_metrics;
  /// "cancel", "pause", "resume", "retry" or "readmit", and what came with it.
  std::function<grpc::Status(const std::string&, const v1::ControlRequest&, v1::ControlResponse&)> on_control;
  Answer<v1::DecideGateRequest, v1::ControlResponse> on_decide_gate;
  Answer<v1::GetServerInfoRequest, v1::ServerInfo> on_server_info;

 private:
  class Service;

  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace moe::testing
