#pragma once

#include <map>
#include <string>

#include "comm/communicator.h"
#include "common/error.h"
#include "common/work_monitor.h"
#include "pipeline/configuration.h"
#include "worker/progress.h"

namespace moe {

/// All ranks leave the job between two units of work, as asked; nothing is wrong.
class StopRequested : public Error {
 public:
  using Error::Error;
};

/// What every job is watched by, whatever its kind and whoever runs it: compares the data that it read with what its
/// configuration records, makes one kind of progress of steps and of other units, and lets one rank's wish to stop end
/// the work on all. Where progress goes and who asks to stop is up to those that run jobs (pipeline_runner.cc,
/// leased_run.cc). Configuration and world must outlive it.
class JobMonitor : public WorkMonitor {
 public:
  JobMonitor(const Configuration& configuration, Communicator& world) : configuration_(configuration), world_(world) {}

  /// Throws as require_recorded() does (stage_inputs.h).
  void data_read(const std::map<std::string, std::string>& digests) override;
  /// Throws StopRequested on every rank if one of them is to stop.
  void unit_done(const WorkProgress& progress) override;
  void record(const StepRecord& record) override;
  bool should_stop() override = 0;

 protected:
  virtual void show(const ProgressUpdate& update) = 0;

 private:
  const Configuration& configuration_;
  Communicator& world_;
};

}  // namespace moe
