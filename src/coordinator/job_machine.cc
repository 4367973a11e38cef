#include "coordinator/job_machine.h"

#include <string>
#include <string_view>

namespace moe {
namespace {

JobPosition at(v1::JobState state) {
  return {state, v1::STOP_INTENT_UNSPECIFIED};
}
JobPosition stopping(v1::StopIntent intent) {
  return {v1::JOB_STATE_STOPPING, intent};
}

JobPosition after_stop(v1::StopIntent intent) {
  switch (intent) {
    case v1::STOP_INTENT_PAUSE: return at(v1::JOB_STATE_PAUSED);
    case v1::STOP_INTENT_CANCEL: return at(v1::JOB_STATE_CANCELED);
    default: return at(v1::JOB_STATE_QUEUED);
  }
}

std::optional<JobPosition> from_waiting(v1::JobState state, JobEvent event) {
  const bool is_queued = state == v1::JOB_STATE_QUEUED;
  switch (event) {
    case JobEvent::kReady: return is_queued ? std::nullopt : std::optional(at(v1::JOB_STATE_QUEUED));
    case JobEvent::kUpstreamFailed: return is_queued ? std::nullopt : std::optional(at(v1::JOB_STATE_BLOCKED));
    case JobEvent::kLeaseGranted: return is_queued ? std::optional(at(v1::JOB_STATE_ASSIGNED)) : std::nullopt;
    case JobEvent::kWorkHeartbeat: return is_queued ? std::optional(at(v1::JOB_STATE_RUNNING)) : std::nullopt;
    case JobEvent::kPause: return at(v1::JOB_STATE_PAUSED);
    case JobEvent::kCancel: return at(v1::JOB_STATE_CANCELED);
    case JobEvent::kDeadline: return at(v1::JOB_STATE_FAILED);
    default: return std::nullopt;
  }
}

std::optional<JobPosition> from_working(JobEvent event, const JobCircumstances& circumstances) {
  switch (event) {
    case JobEvent::kWorkHeartbeat: return at(v1::JOB_STATE_RUNNING);
    case JobEvent::kLeaseExpired:
    case JobEvent::kAttemptRetryable:
      return at(circumstances.budget_left ? v1::JOB_STATE_QUEUED : v1::JOB_STATE_FAILED);
    case JobEvent::kAttemptReleased: return at(v1::JOB_STATE_QUEUED);
    case JobEvent::kAttemptPermanent: return at(v1::JOB_STATE_FAILED);
    case JobEvent::kAttemptSucceeded: return at(v1::JOB_STATE_SUCCEEDED);
    case JobEvent::kPause: return stopping(v1::STOP_INTENT_PAUSE);
    case JobEvent::kCancel: return stopping(v1::STOP_INTENT_CANCEL);
    case JobEvent::kPreempt: return stopping(v1::STOP_INTENT_REQUEUE);
    default: return std::nullopt;
  }
}

std::optional<JobPosition> from_stopping(v1::StopIntent intent, JobEvent event) {
  switch (event) {
    case JobEvent::kWorkHeartbeat: return stopping(intent);
    case JobEvent::kCancel: return stopping(v1::STOP_INTENT_CANCEL);  // outranks the intent there was
    case JobEvent::kLeaseExpired:
    case JobEvent::kAttemptRetryable:
    case JobEvent::kAttemptPermanent:
    case JobEvent::kAttemptReleased: return after_stop(intent);
    case JobEvent::kAttemptSucceeded: return at(v1::JOB_STATE_SUCCEEDED);  // a finished job is never thrown away
    default: return std::nullopt;
  }
}

std::optional<JobPosition> from_paused(JobEvent event, const JobCircumstances& circumstances) {
  switch (event) {
    case JobEvent::kResume: return at(circumstances.inputs_ready ? v1::JOB_STATE_QUEUED : v1::JOB_STATE_BLOCKED);
    case JobEvent::kCancel: return at(v1::JOB_STATE_CANCELED);
    default: return std::nullopt;
  }
}

}  // namespace

std::optional<JobPosition> next_position(const JobPosition& from, JobEvent event,
                                         const JobCircumstances& circumstances) {
  switch (from.state) {
    case v1::JOB_STATE_BLOCKED:
    case v1::JOB_STATE_QUEUED: return from_waiting(from.state, event);
    case v1::JOB_STATE_ASSIGNED:
    case v1::JOB_STATE_RUNNING: return from_working(event, circumstances);
    case v1::JOB_STATE_STOPPING: return from_stopping(from.intent, event);
    case v1::JOB_STATE_PAUSED: return from_paused(event, circumstances);
    case v1::JOB_STATE_FAILED:
      return event == JobEvent::kRetry ? std::optional(at(v1::JOB_STATE_QUEUED)) : std::nullopt;
    default: return std::nullopt;
  }
}

bool is_terminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELED;
}

bool is_leased(v1::JobState state) {
  return state == v1::JOB_STATE_ASSIGNED || state == v1::JOB_STATE_RUNNING || state == v1::JOB_STATE_STOPPING;
}

std::string state_name(v1::JobState state) {
  constexpr std::string_view kPrefix = "JOB_STATE_";
  const std::string& name = v1::JobState_Name(state);
  return name.substr(kPrefix.size());
}

const char* event_name(JobEvent event) {
  switch (event) {
    case JobEvent::kReady: return "ready";
    case JobEvent::kUpstreamFailed: return "upstream failed";
    case JobEvent::kLeaseGranted: return "lease granted";
    case JobEvent::kWorkHeartbeat: return "heartbeat";
    case JobEvent::kLeaseExpired: return "lease expired";
    case JobEvent::kAttemptSucceeded: return "attempt succeeded";
    case JobEvent::kAttemptRetryable: return "attempt failed, may be tried again";
    case JobEvent::kAttemptPermanent: return "attempt failed for good";
    case JobEvent::kAttemptReleased: return "attempt released";
    case JobEvent::kPause: return "pause";
    case JobEvent::kCancel: return "cancel";
    case JobEvent::kPreempt: return "preempt";
    case JobEvent::kDeadline: return "deadline";
    case JobEvent::kResume: return "resume";
    case JobEvent::kRetry: return "retry";
  }
  return "";
}

}  // namespace moe
