#pragma once

#include "coordinator/rpc_reply.h"
#include "moe/v1/job_service.grpc.pb.h"
#include "moe/v1/worker_service.grpc.pb.h"

/// Messages <-> Coordinator: the gRPC side of both services and nothing else. Callback API, so that a waiting call
/// holds no thread.
namespace moe {

class JobServiceAdapter final : public v1::JobService::CallbackService {
 public:
  explicit JobServiceAdapter(RpcParts parts) : parts_(parts) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* Submit(Context*, const v1::SubmitRequest*, v1::SubmitResponse*) override;
  Reactor* ListPipelines(Context*, const v1::ListRequest*, v1::ListPipelinesResponse*) override;
  Reactor* GetPipeline(Context*, const v1::GetRequest*, v1::Pipeline*) override;
  Reactor* ListJobs(Context*, const v1::ListRequest*, v1::ListJobsResponse*) override;
  Reactor* GetJob(Context*, const v1::GetRequest*, v1::Job*) override;
  Reactor* ListGangs(Context*, const v1::ListRequest*, v1::ListGangsResponse*) override;
  Reactor* ListArtifacts(Context*, const v1::ListRequest*, v1::ListArtifactsResponse*) override;
  Reactor* Watch(Context*, const v1::WatchRequest*, v1::WatchResponse*) override;
  Reactor* ReadLogs(Context*, const v1::ReadLogsRequest*, v1::ReadLogsResponse*) override;
  Reactor* QueryMetrics(Context*, const v1::QueryMetricsRequest*, v1::QueryMetricsResponse*) override;
  Reactor* Cancel(Context*, const v1::ControlRequest*, v1::ControlResponse*) override;
  Reactor* Pause(Context*, const v1::ControlRequest*, v1::ControlResponse*) override;
  Reactor* Resume(Context*, const v1::ControlRequest*, v1::ControlResponse*) override;
  Reactor* Retry(Context*, const v1::ControlRequest*, v1::ControlResponse*) override;
  Reactor* ReadmitGang(Context*, const v1::ControlRequest*, v1::ControlResponse*) override;
  Reactor* DecideGate(Context*, const v1::DecideGateRequest*, v1::ControlResponse*) override;
  Reactor* GetServerInfo(Context*, const v1::GetServerInfoRequest*, v1::ServerInfo*) override;

 private:
  RpcParts parts_;
};

class WorkerServiceAdapter final : public v1::WorkerService::CallbackService {
 public:
  explicit WorkerServiceAdapter(RpcParts parts) : parts_(parts) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* RegisterGang(Context*, const v1::RegisterGangRequest*, v1::RegisterGangResponse*) override;
  Reactor* AcquireLease(Context*, const v1::AcquireLeaseRequest*, v1::AcquireLeaseResponse*) override;
  Reactor* Heartbeat(Context*, const v1::HeartbeatRequest*, v1::HeartbeatResponse*) override;
  Reactor* ReportMetrics(Context*, const v1::ReportMetricsRequest*, v1::ReportMetricsResponse*) override;
  Reactor* CommitCheckpoint(Context*, const v1::CommitCheckpointRequest*, v1::CommitCheckpointResponse*) override;
  Reactor* CompleteAttempt(Context*, const v1::CompleteAttemptRequest*, v1::CompleteAttemptResponse*) override;
  Reactor* DeregisterGang(Context*, const v1::DeregisterGangRequest*, v1::DeregisterGangResponse*) override;

 private:
  RpcParts parts_;
};

}  // namespace moe
