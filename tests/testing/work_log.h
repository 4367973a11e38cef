#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/work_monitor.h"

namespace moe::testing {

/// Remembers what one rank's work told.
class WorkLog final : public WorkMonitor {
 public:
  void data_read(const std::map<std::string, std::string>& digests) override { read_ = digests; }
  void unit_done(const WorkProgress& progress) override { told_.push_back(progress); }

  const std::map<std::string, std::string>& read() const { return read_; }
  const std::vector<WorkProgress>& told() const { return told_; }
  /// "converting layer 1/2 2/2": phase and unit where they change.
  std::string units() const {
    std::string text, what;
    for (const WorkProgress& at : told_) {
      if (what != at.phase + " " + at.unit) {
        what = at.phase + " " + at.unit;
        text += (text.empty() ? "" : ", ") + what;
      }
      text += " " + std::to_string(at.done) + "/" + std::to_string(at.all);
    }
    return text;
  }

 private:
  std::map<std::string, std::string> read_;
  std::vector<WorkProgress> told_;
};

}  // namespace moe::testing
