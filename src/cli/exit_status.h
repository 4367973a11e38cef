#pragma once

#include <string>

#include "common/error.h"

/// How moectl ends: the exit codes that scripts rely on (docs/moectl.md lists them), and the one exception that carries
/// them. Thrown by the client and the commands, caught in main.
namespace moe {

enum class ExitStatus : int {
  kDone = 0,
  /// The operation or the job failed.
  kFailed = 1,
  /// Wrong command line or wrong pipeline file.
  kUsage = 2,
  kNotFound = 3,
  kUnavailable = 5,
  kTimeout = 6,
  /// The job or pipeline is in the wrong state for it, or the request id was used for something else.
  kConflict = 7,
  kInterrupted = 130,
};

class CommandError : public Error {
 public:
  CommandError(ExitStatus status, const std::string& message) : Error(message), status_(status) {}
  ExitStatus status() const { return status_; }

 private:
  ExitStatus status_;
};

/// What a command that waited for an end returns: kDone for "SUCCEEDED".
inline ExitStatus status_of_end(const std::string& state) {
  return state == "SUCCEEDED" ? ExitStatus::kDone : ExitStatus::kFailed;
}

}  // namespace moe
