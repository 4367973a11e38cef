#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace moe {

/// The last operations of one communicator, oldest first, for the message of a wait that failed: what hung, and what
/// led there. Used by the communicator's own thread.
class OperationLog {
 public:
  void begin(std::string_view op) { names_[count_++ % kKept] = op; }

  /// How many operations were begun; the current one has this sequence number.
  uint64_t sequence() const { return count_; }
  std::string current() const { return count_ == 0 ? "" : names_[(count_ - 1) % kKept]; }
  /// "12 a, 13 b, 14 c".
  std::string recent(uint64_t how_many) const;

 private:
  static constexpr uint64_t kKept = 32;
  std::array<std::string, kKept> names_;
  uint64_t count_ = 0;
};

}  // namespace moe
