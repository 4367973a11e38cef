#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/communicator.h"
#include "metrics/worker_metrics.h"
#include "worker/coordinator_client.h"
#include "worker/gang_control.h"
#include "worker/lease_agent.h"
#include "worker/stop_signal.h"

namespace moe {

/// A thread of the leader that ends a broken gang, and tells the coordinator why before it does: a rank died, stands
/// still or failed, or this process is asked to end (SIGTERM; mpirun sends it a second after it lost a rank, and kills
/// a second later). The process ends there and then with the exit code of the reason: MPI cannot be asked to while a
/// rank is missing.
class GangWatchdog {
 public:
  GangWatchdog(GangControlServer& control, CoordinatorClient& client, Communicator& world, WorkerMetrics& metrics,
               std::chrono::milliseconds hang_timeout);
  ~GangWatchdog();
  GangWatchdog(const GangWatchdog&) = delete;
  GangWatchdog& operator=(const GangWatchdog&) = delete;

 private:
  friend class WatchedLease;

  /// A time during which this process did not run.
  struct Standstill {
    std::chrono::steady_clock::duration length;
    std::chrono::steady_clock::time_point until;
  };

  void run();
  void look();
  [[noreturn]] void end_gang(const RankTrouble& trouble, const OperationState& leader);
  [[noreturn]] void end_as_told();

  GangControlServer& control_;
  CoordinatorClient& client_;
  const std::shared_ptr<OperationLog> operations_;
  WorkerMetrics& metrics_;
  const std::chrono::milliseconds hang_timeout_;
  const EndSignal end_signal_;
  std::optional<Standstill> stood_still_;  ///< the last; of thread_
  std::mutex mutex_;
  LeaseAgent* agent_ = nullptr;  ///< of the job that runs; null: idle
  std::atomic<bool> done_{false};
  std::thread thread_;
};

/// While it lives, the watchdog ends this lease with the gang.
class WatchedLease {
 public:
  WatchedLease(GangWatchdog& watchdog, LeaseAgent& agent);
  ~WatchedLease();
  WatchedLease(const WatchedLease&) = delete;
  WatchedLease& operator=(const WatchedLease&) = delete;

 private:
  GangWatchdog& watchdog_;
};

}  // namespace moe
