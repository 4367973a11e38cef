#pragma once

#include <optional>

#include "metrics/worker_metrics.h"
#include "worker/coordinator_client.h"
#include "worker/gang.h"
#include "worker/gang_control.h"
#include "worker/gang_watchdog.h"

namespace moe {

/// Rank 0 of a gang: leases jobs, starts the others on them, watches them, and reports how each attempt ended.
class GangLeader {
 public:
  GangLeader(const GangSettings& settings, Communicator& world, WorkerMetrics& metrics, GangControlServer& control,
             v1::Gang gang);

  /// Throws Timeout if a rank does not attach, Unavailable if there is no coordinator at the start, Fenced. Ends the
  /// process if a rank went away (GangWatchdog).
  ExitCode run();

 private:
  void connect();
  std::optional<v1::Lease> next_lease();
  /// Why the job cannot begin on some rank; without a kind: it may.
  v1::Refusal look_at(const v1::Lease& lease);
  /// A job that failed by its input: whether that has gone meanwhile, with the storage that it lies on.
  void look_again(const v1::Lease& lease, v1::CompleteAttemptRequest& end) const;
  /// False: the gang is to end with kReleased.
  bool run_job(const v1::Lease& lease);
  ExitCode leave(const std::string& reason);

  const GangSettings& settings_;
  Communicator& world_;
  WorkerMetrics& metrics_;
  GangControlServer& control_;
  CoordinatorClient client_;
  std::optional<GangWatchdog> watchdog_;  ///< from the registration to the orderly end
};

}  // namespace moe
