#pragma once

#include <exception>

namespace moe {

/// Exit codes of moe-worker; docs/operating.md explains each to its user.
enum class ExitCode : int {
  kDone = 0,
  kGate = 1,
  kUsage = 64,
  kBadInput = 65,
  kUnavailable = 69,
  kInternal = 70,
  kHardware = 71,
  kStorage = 74,
  kReleased = 75,
  kFenced = 76,
  kHang = 86,
  kDiverged = 87,
  kNoReadableCheckpoint = 88,
};

/// The exit code that an exception of common/error.h stands for; kInternal for any other.
ExitCode exit_code_for(const std::exception& error);

}  // namespace moe
