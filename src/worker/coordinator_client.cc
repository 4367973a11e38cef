#include "worker/coordinator_client.h"

#include "common/data_root.h"
#include "common/error.h"
#include "worker/rpc_channel.h"

namespace moe {
namespace {

/// A heartbeat must fail well before the lease does.
constexpr std::chrono::milliseconds kCallTimeout{4000};

}  // namespace

CoordinatorClient::CoordinatorClient(const std::string& target, v1::Gang gang, std::filesystem::path data_root)
    : gang_(std::move(gang)),
      data_root_(std::move(data_root)),
      stub_(v1::WorkerService::NewStub(make_channel(target))) {}

void CoordinatorClient::register_gang() {
  v1::RegisterGangRequest request;
  *request.mutable_gang() = gang_;
  request.set_data_root(data_root_.string());
  request.set_root_id(read_root_id(data_root_).value_or(""));  // read anew: the storage may have come or gone
  v1::RegisterGangResponse response;
  const auto context = context_for(kCallTimeout);
  const grpc::Status status = stub_->RegisterGang(context.get(), request, &response);
  if (status.error_code() == grpc::StatusCode::ALREADY_EXISTS) throw LauncherTaken(status.error_message());
  if (!status.ok()) throw_rpc_error("RegisterGang", status);
}

std::optional<v1::Lease> CoordinatorClient::acquire(std::chrono::seconds wait) {
  v1::AcquireLeaseRequest request;
  request.set_gang_id(gang_.id());
  request.set_wait_seconds(static_cast<int>(wait.count()));
  v1::AcquireLeaseResponse response;
  const auto context = context_for(wait + kCallTimeout);
  const grpc::Status status = stub_->AcquireLease(context.get(), request, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    register_gang();
    return std::nullopt;
  }
  if (!status.ok()) throw_rpc_error("AcquireLease", status);
  if (!response.has_lease()) return std::nullopt;
  return response.lease();
}

v1::Directive CoordinatorClient::heartbeat(const v1::Lease& lease, const v1::Progress& progress) {
  v1::HeartbeatRequest request;
  request.set_gang_id(gang_.id());
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  *request.mutable_progress() = progress;
  v1::HeartbeatResponse response;
  auto context = context_for(kCallTimeout);
  grpc::Status status = stub_->Heartbeat(context.get(), request, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    register_gang();
    context = context_for(kCallTimeout);
    status = stub_->Heartbeat(context.get(), request, &response);
  }
  if (!status.ok()) throw_rpc_error("Heartbeat", status);
  return response.directive();
}

void CoordinatorClient::report_metrics(v1::ReportMetricsRequest request) {
  request.set_gang_id(gang_.id());
  v1::ReportMetricsResponse response;
  const auto context = context_for(kCallTimeout);
  const grpc::Status status = stub_->ReportMetrics(context.get(), request, &response);
  if (!status.ok()) throw_rpc_error("ReportMetrics", status);
}

void CoordinatorClient::commit_checkpoint(const v1::Lease& lease, const v1::Checkpoint& checkpoint) {
  v1::CommitCheckpointRequest request;
  request.set_gang_id(gang_.id());
  request.set_job_id(lease.job_id());
  request.set_attempt(lease.attempt());
  *request.mutable_checkpoint() = checkpoint;
  v1::CommitCheckpointResponse response;
  const auto context = context_for(kCallTimeout);
  const grpc::Status status = stub_->CommitCheckpoint(context.get(), request, &response);
  if (!status.ok()) throw_rpc_error("CommitCheckpoint", status);
}

void CoordinatorClient::complete(v1::CompleteAttemptRequest request) {
  request.set_gang_id(gang_.id());
  // How a job ended is told whatever the message says: an RPC takes UTF-8 of a few megabytes only.
  request.set_message(printable(request.message()));
  v1::CompleteAttemptResponse response;
  const auto context = context_for(kCallTimeout);
  const grpc::Status status = stub_->CompleteAttempt(context.get(), request, &response);
  if (!status.ok()) throw_rpc_error("CompleteAttempt", status);
}

void CoordinatorClient::deregister(const std::string& reason) {
  v1::DeregisterGangRequest request;
  request.set_gang_id(gang_.id());
  request.set_reason(printable(reason));
  v1::DeregisterGangResponse response;
  const auto context = context_for(std::chrono::milliseconds(1500));
  stub_->DeregisterGang(context.get(), request, &response);
}

}  // namespace moe
