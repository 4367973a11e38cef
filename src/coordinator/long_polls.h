#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace moe {

/// Calls that wait for something to happen. One thread asks each again when something changed, a few times a second
/// (logs grow without a change of ours), and at its deadline. Thread-safe.
class LongPolls {
 public:
  /// Asked on the thread of this class; true: answered, forget it. At the last call `is_last` is set: it must answer.
  using Attempt = std::function<bool(bool is_last)>;

  LongPolls();
  /// Every waiting call gets its last attempt.
  ~LongPolls();
  LongPolls(const LongPolls&) = delete;
  LongPolls& operator=(const LongPolls&) = delete;

  void wait(std::chrono::steady_clock::time_point deadline, Attempt attempt);
  /// Something changed. Never blocks for long; may be called with locks held.
  void notify();
  /// Every waiting call, and each that comes later, gets its last attempt at once: the server is about to stop.
  void close();

 private:
  struct Waiting {
    std::chrono::steady_clock::time_point deadline;
    Attempt attempt;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Waiting> waiting_;
  bool changed_ = false;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace moe
