#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moe {

/// Where a stage stands; fields that a stage does not have stay at their defaults and are not shown.
struct ProgressUpdate {
  std::string stage{};
  std::string phase{};  ///< "converting", "training", "evaluating", "exporting"
  int64_t step = 0;
  int64_t steps = 0;
  std::string unit = "step";     ///< "step", "layer", "batch"
  double loss = 0;               ///< shown if > 0
  double tokens_per_second = 0;  ///< shown if > 0
};

/// Shows progress on standard error: one line that is redrawn on a terminal, else a line now and then (at least at
/// every tenth of the work, at most one in five seconds in between). Silent unless `enabled` (rank 0).
class ProgressLine {
 public:
  explicit ProgressLine(bool enabled);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update(const ProgressUpdate& update);
  /// Ends a live line and prints a plain one.
  void message(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  bool enabled_;
  bool terminal_;
  size_t drawn_width_ = 0;
  std::string stage_;
  Clock::time_point stage_started_;
  Clock::time_point last_drawn_;
  int64_t first_step_ = 0;
  int64_t last_tenth_ = -1;

  void clear_line();
};

/// "1 h 02 min", "3 min 20 s", "12 s".
std::string format_duration(double seconds);

}  // namespace moe
