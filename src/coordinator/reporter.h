#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "coordinator/coordinator.h"

namespace moe {

/// Keeps <data root>/<pipeline>/{summary.json, summary.txt, report.html, metrics.jsonl} up to date, from what the
/// coordinator knows and the records that finished jobs left on the data root. A thread of its own: nobody waits for
/// it, and what it fails to write it logs.
class Reporter {
 public:
  Reporter(Coordinator& coordinator, std::filesystem::path data_root);
  /// Writes what is still to be written.
  ~Reporter();
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

 private:
  void run();
  void write_all(bool is_start, std::chrono::milliseconds wait);
  void write(const std::string& pipeline_id, bool only_if_stale);

  Coordinator& coordinator_;
  const std::filesystem::path data_root_;
  std::atomic<bool> closing_{false};
  std::thread thread_;
};

}  // namespace moe
