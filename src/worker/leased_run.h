#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "comm/communicator.h"
#include "metrics/worker_metrics.h"
#include "moe/v1/worker_service.pb.h"
#include "worker/lease_agent.h"

namespace moe {

/// What a leased job needs besides its lease. `agent` on the leader only.
struct LeasedRun {
  const v1::Lease& lease;
  std::filesystem::path data_root;
  Communicator& world;
  WorkerMetrics& metrics;
  LeaseAgent* agent = nullptr;
};

/// Runs the job of a lease on all ranks and says how the attempt ended, on every rank. Collective. Errors that all
/// ranks agreed on become an outcome; any other error is thrown: the gang cannot go on.
v1::CompleteAttemptRequest run_leased(const LeasedRun& run);

/// The end of an attempt that failed with this error.
v1::CompleteAttemptRequest failed_attempt(const std::exception& error);

/// The end of an attempt that the gang did not begin.
v1::CompleteAttemptRequest refused_attempt(const v1::Refusal& refusal);

}  // namespace moe
