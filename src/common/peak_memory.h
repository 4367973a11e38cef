#pragma once

#include <optional>

namespace moe {

/// The most resident memory, mapped files included, that this process has had since it was made (where the kernel lets
/// it begin anew; else since the process began). Linux.
class PeakMemory {
 public:
  PeakMemory();
  /// Nothing where it cannot be told.
  std::optional<double> bytes() const;
};

}  // namespace moe
