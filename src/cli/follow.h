#pragma once

#include <optional>
#include <string>

#include "cli/exit_status.h"
#include "cli/shell.h"

/// Waiting for a pipeline or a job, for `wait` and `submit --wait`: through long polls, and through restarts of the
/// coordinator.
namespace moe {

struct FollowOptions {
  /// A pipeline's phase or a job's state; "ENDED": any end.
  std::string wanted = "SUCCEEDED";
  /// Forever if absent.
  std::optional<double> timeout_seconds;
  /// Prints events and a progress line on standard error.
  bool show_progress = false;
};

/// kDone in the wanted state; kFailed if another end or a gate that holds stands in the way; kTimeout. What happened is
/// said on standard error.
ExitStatus follow(Shell& shell, const std::string& id, const FollowOptions& options);

/// One event as a line: "12:05:36  stage1  RUNNING  message".
std::string event_text(const v1::Event& event);

/// The commands that let a held pipeline go on: gates that hold, with what they found.
std::string approval_hint(const v1::Pipeline& pipeline);

/// Why a pipeline or job ended as it did, or "".
std::string reason_of(const Target& target);

}  // namespace moe
