#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace moe {

/// Progress on standard error: one line that is redrawn on a terminal, else a line at every tenth of the work and after
/// at least five quiet seconds.
class ProgressLine {
 public:
  explicit ProgressLine(std::ostream& err, bool is_terminal);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// `what` names the work ("stage1"): another one is shown at once. `tenth` is how far it is, 0 to 10.
  void show(const std::string& what, const std::string& text, int64_t tenth);
  /// A line that stays.
  void message(const std::string& text);
  /// Takes the live line away.
  void end();

 private:
  using Clock = std::chrono::steady_clock;

  std::ostream& err_;
  bool is_terminal_;
  int drawn_width_ = 0;
  std::string what_;
  std::string text_;
  int64_t tenth_ = -1;
  Clock::time_point last_;
};

}  // namespace moe
