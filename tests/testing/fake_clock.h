#pragma once

#include <atomic>
#include <chrono>

#include "common/clock.h"

namespace moe::testing {

/// A clock that moves when the test says so; wall and steady time together. Thread-safe.
class FakeClock final : public Clock {
 public:
  std::chrono::system_clock::time_point wall() const override {
    return std::chrono::system_clock::time_point(std::chrono::seconds(1'764'000'000)) +
           std::chrono::microseconds(elapsed_);
  }
  std::chrono::steady_clock::time_point steady() const override {
    return std::chrono::steady_clock::time_point(std::chrono::hours(1)) + std::chrono::microseconds(elapsed_);
  }

  void advance(std::chrono::microseconds by) { elapsed_ += by.count(); }

 private:
  std::atomic<int64_t> elapsed_{0};  ///< microseconds
};

}  // namespace moe::testing
