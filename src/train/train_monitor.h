#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace moe {

/// Who watches a training, on every rank and on the thread that trains. What a watcher does not override it does not
/// want to know.
class TrainMonitor {
 public:
  virtual ~TrainMonitor() = default;

  /// Before the first step: path -> XXH3-128 of the data files as they were read, the same on all ranks. May throw on
  /// all of them: nothing is written then.
  virtual void data_read(const std::map<std::string, std::string>& /*digests*/) {}

  /// Every line of metrics.jsonl as it is written.
  virtual void record(const nlohmann::json& /*line*/) {}

  struct Progress {
    int64_t step = 0;
    int64_t steps = 0;
    double loss = 0;
    double tokens_per_second = 0;
  };
  /// After every step, behind its record.
  virtual void progress(const Progress& /*at*/) {}

  /// Asked after every step; if any rank's says yes, all save and leave.
  virtual bool should_stop() { return false; }

  /// A checkpoint could not be written. Training goes on, and the one before stays the one to resume from.
  virtual void save_failed() {}
};

}  // namespace moe
