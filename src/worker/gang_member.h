#pragma once

#include <string>

#include "metrics/worker_metrics.h"
#include "worker/gang.h"
#include "worker/gang_control.h"

namespace moe {

/// A rank other than the leader: waits for orders, runs jobs with the others, reports where it stands while it does.
class GangMember {
 public:
  GangMember(const GangSettings& settings, Communicator& world, WorkerMetrics& metrics, const std::string& target,
             const std::string& secret);

  /// Until the leader says that the gang ends; returns the code it gave. Throws HardwareError if the leader is gone.
  ExitCode run();

 private:
  void run_job(const v1::RankOrder& order, const std::string& lease);

  const GangSettings& settings_;
  Communicator& world_;
  WorkerMetrics& metrics_;
  GangControlClient control_;
};

}  // namespace moe
