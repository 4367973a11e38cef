#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/step_record.h"

namespace moe {

/// How far work of which all units are alike has come.
struct WorkProgress {
  std::string phase;  ///< "converting"
  std::string unit;   ///< "layer"
  int64_t done = 0;
  int64_t all = 0;
};

/// Who watches a job's work, of whatever kind it is: on every rank, called on the thread that works. What a watcher
/// does not override it does not want to know. THE monitor of the worker is worker/job_monitor.h.
class WorkMonitor {
 public:
  virtual ~WorkMonitor() = default;

  /// Path -> XXH3-128 of data files as they were read, the same on all ranks, before anything is made of them. May
  /// throw on all of them: nothing is written then.
  virtual void data_read(const std::map<std::string, std::string>& /*digests*/) {}

  /// After each unit of work that keeps no checkpoint. Collective: may throw, on all ranks, to end the work there; then
  /// nothing of it stays.
  virtual void unit_done(const WorkProgress& /*progress*/) {}

  /// After every step of a training, its unit, and its validation if it has one.
  virtual void record(const StepRecord& /*record*/) {}

  /// Asked after every step, not collective; if any rank's says yes, all save and leave.
  virtual bool should_stop() { return false; }

  /// A checkpoint could not be written. Training goes on, and the one before stays the one to resume from.
  virtual void save_failed() {}
};

/// Nobody watches.
inline WorkMonitor& unwatched() {
  static WorkMonitor nobody;
  return nobody;
}

}  // namespace moe
