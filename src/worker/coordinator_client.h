#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/error.h"
#include "moe/v1/worker_service.grpc.pb.h"

namespace moe {

/// Another gang with this gang's launcher id is alive.
class LauncherTaken : public InvalidArgument {
 public:
  using InvalidArgument::InvalidArgument;
};

/// The leader's side of WorkerService. Calls may come from several threads. A gang that the coordinator does not know
/// (it was away too long) registers again and repeats the call. Throws LauncherTaken, Fenced, Unavailable,
/// InvalidArgument (rpc_channel.h).
class CoordinatorClient {
 public:
  CoordinatorClient(const std::string& target, v1::Gang gang, std::filesystem::path data_root);

  const std::string& gang_id() const { return gang_.id(); }
  void register_gang();
  /// nullopt: nothing to do within `wait`.
  std::optional<v1::Lease> acquire(std::chrono::seconds wait);
  v1::Directive heartbeat(const v1::Lease& lease, const v1::Progress& progress);
  void report_metrics(v1::ReportMetricsRequest request);
  void commit_checkpoint(const v1::Lease& lease, const v1::Checkpoint& checkpoint);
  void complete(v1::CompleteAttemptRequest request);
  /// Best effort.
  void deregister(const std::string& reason);

 private:
  const v1::Gang gang_;
  const std::filesystem::path data_root_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

}  // namespace moe
