#include "coordinator/services.h"

namespace moe {

grpc::ServerUnaryReactor* JobServiceAdapter::Submit(Context* context, const v1::SubmitRequest* request,
                                                    v1::SubmitResponse* response) {
  return reply<v1::SubmitResponse>(parts_, context, "Submit", response,
                                   [&] { return parts_.coordinator.submit(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ListPipelines(Context* context, const v1::ListRequest* request,
                                                           v1::ListPipelinesResponse* response) {
  return reply<v1::ListPipelinesResponse>(parts_, context, "ListPipelines", response,
                                          [&] { return parts_.coordinator.list_pipelines(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::GetPipeline(Context* context, const v1::GetRequest* request,
                                                         v1::Pipeline* response) {
  return reply<v1::Pipeline>(parts_, context, "GetPipeline", response,
                             [&] { return parts_.coordinator.get_pipeline(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ListJobs(Context* context, const v1::ListRequest* request,
                                                      v1::ListJobsResponse* response) {
  return reply<v1::ListJobsResponse>(parts_, context, "ListJobs", response,
                                     [&] { return parts_.coordinator.list_jobs(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::GetJob(Context* context, const v1::GetRequest* request,
                                                    v1::Job* response) {
  return reply<v1::Job>(parts_, context, "GetJob", response, [&] { return parts_.coordinator.get_job(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ListGangs(Context* context, const v1::ListRequest* request,
                                                       v1::ListGangsResponse* response) {
  return reply<v1::ListGangsResponse>(parts_, context, "ListGangs", response,
                                      [&] { return parts_.coordinator.list_gangs(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ListArtifacts(Context* context, const v1::ListRequest* request,
                                                           v1::ListArtifactsResponse* response) {
  return reply<v1::ListArtifactsResponse>(parts_, context, "ListArtifacts", response,
                                          [&] { return parts_.coordinator.list_artifacts(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::QueryMetrics(Context* context, const v1::QueryMetricsRequest* request,
                                                          v1::QueryMetricsResponse* response) {
  return reply<v1::QueryMetricsResponse>(parts_, context, "QueryMetrics", response,
                                         [&] { return parts_.coordinator.query_metrics(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::Cancel(Context* context, const v1::ControlRequest* request,
                                                    v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "Cancel", response,
                                    [&] { return parts_.coordinator.cancel(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::Pause(Context* context, const v1::ControlRequest* request,
                                                   v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "Pause", response,
                                    [&] { return parts_.coordinator.pause(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::Resume(Context* context, const v1::ControlRequest* request,
                                                    v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "Resume", response,
                                    [&] { return parts_.coordinator.resume(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::Retry(Context* context, const v1::ControlRequest* request,
                                                   v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "Retry", response,
                                    [&] { return parts_.coordinator.retry(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ReadmitGang(Context* context, const v1::ControlRequest* request,
                                                         v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "ReadmitGang", response,
                                    [&] { return parts_.coordinator.readmit_gang(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::DecideGate(Context* context, const v1::DecideGateRequest* request,
                                                        v1::ControlResponse* response) {
  return reply<v1::ControlResponse>(parts_, context, "DecideGate", response,
                                    [&] { return parts_.coordinator.decide_gate(*request); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::Watch(Context* context, const v1::WatchRequest* request,
                                                   v1::WatchResponse* response) {
  return reply_when<v1::WatchResponse>(
      parts_, context, "Watch", response, request->wait_seconds(),
      [this, request] { return parts_.coordinator.watch(*request); },
      [](const v1::WatchResponse& answer) { return !answer.events().empty() || answer.has_ended(); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::ReadLogs(Context* context, const v1::ReadLogsRequest* request,
                                                      v1::ReadLogsResponse* response) {
  return reply_when<v1::ReadLogsResponse>(
      parts_, context, "ReadLogs", response, request->wait_seconds(),
      [this, request] { return parts_.coordinator.read_logs(*request); },
      [](const v1::ReadLogsResponse& answer) { return !answer.data().empty() || answer.attempt_ended(); });
}

grpc::ServerUnaryReactor* JobServiceAdapter::GetServerInfo(Context* context, const v1::GetServerInfoRequest*,
                                                           v1::ServerInfo* response) {
  return reply<v1::ServerInfo>(parts_, context, "GetServerInfo", response,
                               [&] { return absl::StatusOr<v1::ServerInfo>(parts_.coordinator.server_info()); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::RegisterGang(Context* context, const v1::RegisterGangRequest* request,
                                                             v1::RegisterGangResponse* response) {
  return reply<v1::RegisterGangResponse>(parts_, context, "RegisterGang", response,
                                         [&] { return parts_.coordinator.register_gang(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::Heartbeat(Context* context, const v1::HeartbeatRequest* request,
                                                          v1::HeartbeatResponse* response) {
  return reply<v1::HeartbeatResponse>(parts_, context, "Heartbeat", response,
                                      [&] { return parts_.coordinator.heartbeat(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::ReportMetrics(Context* context, const v1::ReportMetricsRequest* request,
                                                              v1::ReportMetricsResponse* response) {
  return reply<v1::ReportMetricsResponse>(parts_, context, "ReportMetrics", response,
                                          [&] { return parts_.coordinator.report_metrics(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::CommitCheckpoint(Context* context,
                                                                 const v1::CommitCheckpointRequest* request,
                                                                 v1::CommitCheckpointResponse* response) {
  return reply<v1::CommitCheckpointResponse>(parts_, context, "CommitCheckpoint", response,
                                             [&] { return parts_.coordinator.commit_checkpoint(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::CompleteAttempt(Context* context,
                                                                const v1::CompleteAttemptRequest* request,
                                                                v1::CompleteAttemptResponse* response) {
  return reply<v1::CompleteAttemptResponse>(parts_, context, "CompleteAttempt", response,
                                            [&] { return parts_.coordinator.complete_attempt(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::DeregisterGang(Context* context,
                                                               const v1::DeregisterGangRequest* request,
                                                               v1::DeregisterGangResponse* response) {
  return reply<v1::DeregisterGangResponse>(parts_, context, "DeregisterGang", response,
                                           [&] { return parts_.coordinator.deregister_gang(*request); });
}

grpc::ServerUnaryReactor* WorkerServiceAdapter::AcquireLease(Context* context, const v1::AcquireLeaseRequest* request,
                                                             v1::AcquireLeaseResponse* response) {
  return reply_when<v1::AcquireLeaseResponse>(
      parts_, context, "AcquireLease", response, request->wait_seconds(),
      [this, request] { return parts_.coordinator.acquire_lease(*request); },
      [](const v1::AcquireLeaseResponse& answer) { return answer.has_lease(); });
}

}  // namespace moe
