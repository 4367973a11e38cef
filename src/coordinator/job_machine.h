#pragma once

#include <optional>

#include "moe/v1/state.pb.h"

/// The state machine of a job: a pure table, no clock, no store. docs/operating.md draws it; the coordinator applies
/// every transition in the transaction that also writes its event.
///
/// Beyond that drawing: a STOPPING job may still be canceled; a PAUSED one goes back to BLOCKED while its inputs are
/// not there; a gang that is told to leave by its own machine (SIGUSR1) releases a job that nobody asked to stop, which
/// queues it again; heartbeats of a job that works or stops change nothing.
namespace moe {

enum class JobEvent {
  kReady,  ///< inputs are committed and the gates before it passed
  kUpstreamFailed,
  kLeaseGranted,
  kWorkHeartbeat,  ///< of the current attempt; a QUEUED job whose lease expired unclaimed is taken up again
  kLeaseExpired,
  kAttemptSucceeded,
  kAttemptRetryable,
  kAttemptPermanent,
  kAttemptReleased,  ///< let go after a checkpoint
  kPause,
  kCancel,
  kPreempt,  ///< also drain: back to the queue after a checkpoint
  kDeadline,
  kResume,
  kRetry,  ///< by a user
};
inline constexpr int kJobEvents = static_cast<int>(JobEvent::kRetry) + 1;

struct JobPosition {
  v1::JobState state = v1::JOB_STATE_BLOCKED;
  v1::StopIntent intent = v1::STOP_INTENT_UNSPECIFIED;  ///< STOPPING only
  bool operator==(const JobPosition&) const = default;
};

/// What a transition depends on besides state and event.
struct JobCircumstances {
  bool budget_left = true;   ///< another failed attempt may be followed by one more
  bool inputs_ready = true;  ///< a PAUSED job goes back to BLOCKED if they are not
};

/// Where the event leads; nullopt if it is not allowed there.
std::optional<JobPosition> next_position(const JobPosition& from, JobEvent event,
                                         const JobCircumstances& circumstances);

bool is_terminal(v1::JobState state);
/// A gang holds it: ASSIGNED, RUNNING, STOPPING.
bool is_leased(v1::JobState state);

/// "QUEUED": without the enum's prefix.
std::string state_name(v1::JobState state);
const char* event_name(JobEvent event);

}  // namespace moe
