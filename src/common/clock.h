#pragma once

#include <chrono>

namespace moe {

/// Time as the coordinator sees it; tests give one of their own. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  /// For time stamps; may jump.
  virtual std::chrono::system_clock::time_point wall() const = 0;
  /// For deadlines; never goes back.
  virtual std::chrono::steady_clock::time_point steady() const = 0;
};

class SystemClock final : public Clock {
 public:
  std::chrono::system_clock::time_point wall() const override { return std::chrono::system_clock::now(); }
  std::chrono::steady_clock::time_point steady() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace moe
