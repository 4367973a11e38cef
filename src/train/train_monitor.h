#pragma once

#include <map>
#include <string>

#include "common/step_record.h"

namespace moe {

/// Who watches a training, on every rank and on the thread that trains. What a watcher does not override it does not
/// want to know.
class TrainMonitor {
 public:
  virtual ~TrainMonitor() = default;

  /// Before the first step: path -> XXH3-128 of the data files as they were read, the same on all ranks. May throw on
  /// all of them: nothing is written then.
  virtual void data_read(const std::map<std::string, std::string>& /*digests*/) {}

  /// After every step, and its validation if it has one.
  virtual void record(const StepRecord& /*record*/) {}

  /// Asked after every step; if any rank's says yes, all save and leave.
  virtual bool should_stop() { return false; }

  /// A checkpoint could not be written. Training goes on, and the one before stays the one to resume from.
  virtual void save_failed() {}
};

}  // namespace moe
