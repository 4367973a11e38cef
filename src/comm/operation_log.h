#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace moe {

/// The operation that a rank waits for, or last waited for. One whose wait failed stays in flight: the error of a
/// collective ends its rank, and until then the gauge goes on growing and the watchdog says that the rank is in this
/// operation, not after it.
struct OperationState {
  std::string name;
  uint64_t number = 0;  ///< 0: none yet
  bool is_in_flight = false;
  bool is_after_work = false;                   ///< ranks come to it from work of their own: its age says nothing
  std::chrono::steady_clock::time_point since;  ///< when the wait began, or ended

  /// Since when a rank waits for others that should have come: what a gauge of stuck collectives shows.
  double seconds_in_flight() const {
    return is_in_flight && !is_after_work
               ? std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count()
               : 0;
  }
};

/// The last operations of a communicator and its sub-groups, oldest first: what hung and what led there, for the
/// message of a wait that failed and for the watchdog, which reads it from another thread. Thread-safe.
class OperationLog {
 public:
  /// Called on the communicator's thread after each operation that was waited for, with the seconds of the wait.
  using Observer = std::function<void(std::string_view op, double seconds, int64_t sent_bytes)>;

  /// An operation is begun and waited for. Returns its sequence number.
  uint64_t begin(std::string_view op, bool is_after_work = false);
  /// One is begun, and nobody waits for it yet. Returns its sequence number.
  uint64_t start(std::string_view op);
  /// Now somebody does.
  void begin_wait(std::string_view op, uint64_t number);
  /// What is waited for is done; not called where the wait failed.
  void end(int64_t sent_bytes);
  void observe(Observer observer);

  /// Of the one that is, or was last, waited for.
  OperationState state() const;
  /// "12 a, 13 b, 14 c".
  std::string recent(uint64_t how_many) const;

 private:
  uint64_t add(std::string_view op);
  void set_current(std::string_view op, uint64_t number, bool is_after_work);

  static constexpr uint64_t kKept = 32;
  mutable std::mutex mutex_;
  std::array<std::string, kKept> names_;
  uint64_t count_ = 0;
  OperationState current_;
  Observer observer_;
};

}  // namespace moe
