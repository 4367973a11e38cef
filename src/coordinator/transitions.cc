#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "coordinator/operation.h"
#include "pipeline/pipeline_status.h"

/// How jobs and pipelines move: every change of state goes through apply() and feed().
namespace moe {
namespace {

constexpr int kMaxAttemptsKept = 20;
constexpr int kMaxBackoffDoublings = 5;  // 30 s -> 16 min
/// A job that so many gangs failed for reasons of their own is not innocent: gangs without a launcher have a new name
/// each time.
constexpr int kMaxGangsTried = 30;
/// Gangs that say that they were told to end so often while they have one job tell something about it.
constexpr int kMaxUncharged = 30;
constexpr int kMaxLaunchersKept = 100;

/// How often a gang looks again for inputs that it did not see, at most, while another may come.
constexpr int kLooksInGrace = 8;

/// Whether a gang of another launcher could not read the inputs either, since the job was submitted or retried.
bool is_refused_elsewhere(const v1::Job& job, const std::string& launcher) {
  return std::any_of(job.attempts().begin(), job.attempts().end(), [&](const v1::Attempt& attempt) {
    return attempt.launcher_id() != launcher && attempt.exit_code() == static_cast<int>(ExitCode::kBadInput) &&
           std::find(job.failed_on().begin(), job.failed_on().end(), attempt.launcher_id()) != job.failed_on().end();
  });
}

v1::Attempt* current_attempt(v1::Job& job) {
  for (v1::Attempt& attempt : *job.mutable_attempts()) {
    if (attempt.number() == job.attempt()) return &attempt;
  }
  return nullptr;
}

}  // namespace

bool is_own_failure(int exit_code) {
  switch (static_cast<ExitCode>(exit_code)) {
    case ExitCode::kInternal:
    case ExitCode::kHardware:
    case ExitCode::kStorage:
    case ExitCode::kHang: return true;
    default: return false;
  }
}

QueuedJob queue_entry(const v1::Job& job) {
  return {to_micros(job.created()),
          job.id(),
          need_of(job.stage().gang()),
          job.has_not_before() ? to_micros(job.not_before()) : 0,
          {job.failed_on().begin(), job.failed_on().end()},
          job.has_avoid_until() ? to_micros(job.avoid_until()) : 0};
}

void Coordinator::Operation::event(const std::string& pipeline_id, const std::string& job_id, const std::string& type,
                                   const std::string& message) {
  v1::Event event;
  event.set_revision(++coordinator_.revision_);
  coordinator_.touch(event.mutable_time());
  event.set_actor(actor_);
  event.set_pipeline_id(pipeline_id);
  event.set_job_id(job_id);
  event.set_type(type);
  event.set_message(message);
  coordinator_.events_.push_back(event);
  changes_.events.push_back(std::move(event));
}

void Coordinator::Operation::commit() {
  constexpr size_t kEventsKept = 20'000;
  while (coordinator_.events_.size() > kEventsKept) coordinator_.events_.pop_front();
  bool has_news = !pipelines_.empty();  // for whoever writes summaries
  for (const std::string& id : jobs_) {
    const v1::Job& job = coordinator_.jobs_.at(id);
    changes_.jobs.push_back(job);
    PipelineEntry& entry = coordinator_.pipelines_.at(job.pipeline_id());
    coordinator_.sort_in(entry);
    if (entry.record.phase() != coordinator_.phase_of(entry)) changed(entry);
    // The summary of a pipeline shows the states of its jobs.
    if (std::vector<v1::JobState> states = coordinator_.job_states(entry); states != entry.summarized) {
      entry.summarized = std::move(states);
      coordinator_.changed_pipelines_.insert(job.pipeline_id());
      has_news = true;
    }
  }
  for (const std::string& id : pipelines_) {
    PipelineEntry& entry = coordinator_.pipelines_.at(id);
    coordinator_.put_state(entry, entry.record);
    coordinator_.sort_in(entry);
    changes_.pipelines.push_back(entry.record);
    coordinator_.changed_pipelines_.insert(id);
  }
  for (const std::string& launcher : coordinator_.health_.take_changed()) {
    if (std::optional<v1::GangFaults> record = coordinator_.health_.record(launcher)) {
      changes_.gang_faults.push_back(*std::move(record));
    } else {
      changes_.removed_gang_faults.push_back(launcher);
    }
  }
  if (changes_.empty()) return;
  ++coordinator_.version_;
  coordinator_.store_.commit(std::move(changes_));
  if (has_news) coordinator_.pipelines_changed_.notify_all();
  coordinator_.observer_.changed();
  changes_ = {};
  jobs_.clear();
  pipelines_.clear();
}

absl::Status Coordinator::apply(Operation& operation, v1::Job& job, JobEvent event, const std::string& reason,
                                const std::string& message) {
  const JobPosition from{job.state(), job.intent()};
  const StageState* stage = nullptr;
  const PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  for (const moe::StageState& state : pipeline.engine.stages) {
    if (state.name == job.stage().name()) stage = &state;
  }
  const JobCircumstances circumstances{.budget_left = job.failures() < options_.max_failures,
                                       .inputs_ready = stage != nullptr && stage->status != StageStatus::kPending};
  const std::optional<JobPosition> to = next_position(from, event, circumstances);
  if (!to) {
    return absl::FailedPreconditionError(
        concat("job ", job.id(), " is ", state_name(from.state), ": ", event_name(event), " is not possible there"));
  }
  if (from.state == v1::JOB_STATE_QUEUED) queue_.erase(queue_entry(job));
  if (event == JobEvent::kResume) job.clear_inputs_missing_since();  // nobody looked meanwhile
  job.set_state(to->state);
  job.set_intent(to->intent);
  job.set_reason(reason);
  job.set_message(message);
  if (is_leased(from.state) && !is_leased(to->state)) leases_.erase(job.id());
  if (to->state == v1::JOB_STATE_QUEUED) {
    touch(job.mutable_queued());
    queue_.insert(queue_entry(job));
  }
  if (is_terminal(to->state)) {
    touch(job.mutable_finished());
    observer_.finished(job.kind(), state_name(to->state));
  }
  operation.changed(job);
  if (*to != from) operation.event(job.pipeline_id(), job.id(), state_name(to->state), message);
  return absl::OkStatus();
}

absl::Status Coordinator::feed(Operation& operation, PipelineEntry& pipeline, const Event& event) {
  std::vector<Action> actions;
  try {
    actions = advance(pipeline.engine, event);
  } catch (const InvalidArgument& error) {
    return absl::FailedPreconditionError(error.what());
  }
  const std::string& id = pipeline.record.id();
  for (const Action& action : actions) {
    if (const auto* start = std::get_if<StartStage>(&action)) {
      v1::Job& job = jobs_.at(id + "-" + start->name);
      // A job that a user paused while it was blocked stays paused; resume queues it.
      if (job.state() == v1::JOB_STATE_BLOCKED) {
        if (absl::Status status = apply(operation, job, JobEvent::kReady, "", ""); !status.ok()) return status;
      }
    } else if (const auto* note = std::get_if<GateNote>(&action)) {
      operation.event(id, "", std::string("GATE_") + to_string(note->status), note->message);
    } else if (const auto* hold = std::get_if<Hold>(&action)) {
      operation.event(id, "", "GATE_HELD", hold->message);
    } else if (const auto* finish = std::get_if<Finish>(&action)) {
      touch(pipeline.record.mutable_finished());
      operation.event(id, "", to_string(finish->phase), finish->reason);
      if (finish->phase != PipelinePhase::kFailed) continue;
      for (const v1::Stage& stage : pipeline.record.spec().stages()) {
        const auto blocked = jobs_.find(id + "-" + stage.name());
        if (blocked == jobs_.end() || blocked->second.state() != v1::JOB_STATE_BLOCKED) continue;
        if (absl::Status status =
                apply(operation, blocked->second, JobEvent::kUpstreamFailed, "UPSTREAM_FAILED", finish->reason);
            !status.ok())
          return status;
      }
    }
  }
  operation.changed(pipeline);
  return absl::OkStatus();
}

void Coordinator::end_attempt(Operation& operation, v1::Job& job, const AttemptEnd& end) {
  const bool has_failed = end.outcome == v1::ATTEMPT_OUTCOME_RETRYABLE || end.outcome == v1::ATTEMPT_OUTCOME_LOST;
  job.clear_not_before();
  const v1::AttemptFault fault = has_failed ? charge(operation, job, end) : v1::ATTEMPT_FAULT_UNSPECIFIED;
  if (v1::Attempt* attempt = current_attempt(job)) {
    touch(attempt->mutable_ended());
    attempt->set_outcome(end.outcome);
    attempt->set_exit_code(end.exit_code);
    attempt->set_message(end.message);
    attempt->set_last_step(job.progress().step());
    attempt->set_fault(fault);
  }
  auto& attempts = *job.mutable_attempts();
  if (attempts.size() > kMaxAttemptsKept) attempts.DeleteSubrange(0, attempts.size() - kMaxAttemptsKept);
}

v1::AttemptFault Coordinator::charge(Operation& operation, v1::Job& job, const AttemptEnd& end) {
  const auto at = [](int64_t micros) { return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(micros); };
  const auto after_each = [&](std::chrono::milliseconds first,
                              int failures) {  // 30 s, 60 s, ... for the first, the second, ...
    return at(now_micros() + first.count() * (int64_t{1} << std::clamp(failures - 1, 0, kMaxBackoffDoublings)) * 1000);
  };
  const auto after = [&](int failures) { return after_each(options_.retry_backoff, failures); };
  // A job that broke a gang comes back to it only when no other gets free for long: it would break it again.
  const std::chrono::milliseconds long_wait = std::max(options_.retry_backoff, options_.quarantine);
  // One time for all gangs that failed it: the last of them shortens nobody's.
  const auto avoid = [&](const google::protobuf::Timestamp& until) {
    if (!job.has_avoid_until() || to_micros(job.avoid_until()) < to_micros(until)) *job.mutable_avoid_until() = until;
  };
  const v1::Attempt* attempt = current_attempt(job);
  const std::string launcher =
      attempt != nullptr && !attempt->launcher_id().empty() ? attempt->launcher_id() : launcher_of(job.gang_id());
  const std::vector<std::string> failed_before(job.failed_on().begin(), job.failed_on().end());
  const bool is_sure = end.suspect == Suspect::kGangForSure;
  const bool is_gangs = end.suspect == Suspect::kGang || end.suspect == Suspect::kSilentGang || is_sure;
  const bool has_other = is_gangs && job.failed_on_size() < kMaxGangsTried &&
                         another_could_run(need_of(job.stage().gang()), failed_before, launcher, gang_shapes());
  if (is_gangs && std::find(failed_before.begin(), failed_before.end(), launcher) == failed_before.end()) {
    job.add_failed_on(launcher);
    if (job.failed_on_size() > kMaxLaunchersKept)
      job.mutable_failed_on()->DeleteSubrange(0, job.failed_on_size() - kMaxLaunchersKept);
  }
  if (end.suspect == Suspect::kGang || is_sure) {
    v1::GangFault fault;
    fault.set_job_id(job.id());
    touch(fault.mutable_at());
    const int64_t committed = job.checkpoints().empty() ? 0 : job.checkpoints().rbegin()->step();
    fault.set_step(std::max(job.progress().step(), committed));
    fault.set_could_run_elsewhere(has_other);
    fault.set_is_proven(is_sure);
    fault.set_message(end.message);
    announce_quarantines(operation, health_.failed(launcher, fault));
  }
  if (end.suspect == Suspect::kNobody && job.uncharged_failures() < kMaxUncharged) {
    job.set_uncharged_failures(job.uncharged_failures() + 1);
    return v1::ATTEMPT_FAULT_NOBODY;
  }
  if (has_other || !end.may_appear) job.clear_inputs_missing_since();
  // Storage that fails one gang fails the others too, unless they show that it does not: the job waits for whoever
  // mends it.
  const bool waits = end.suspect == Suspect::kRoom || end.exit_code == static_cast<int>(ExitCode::kStorage);
  if (waits && !has_other) {
    job.set_room_failures(job.room_failures() + 1);
    avoid(after(job.room_failures()));
    *job.mutable_not_before() = after(job.room_failures());  // nobody else to give it to at once
    return v1::ATTEMPT_FAULT_ROOM;
  }
  if (has_other || (is_sure && job.uncharged_failures() < kMaxUncharged)) {
    job.set_uncharged_failures(job.uncharged_failures() + 1);
    const bool brought_it_on = std::any_of(job.checkpoints().begin(), job.checkpoints().end(),
                                           [&](const v1::Checkpoint& made) { return made.attempt() == job.attempt(); });
    const auto broke = std::count_if(job.attempts().begin(), job.attempts().end(), [&](const v1::Attempt& before) {
      return before.launcher_id() == launcher &&
             (before.fault() == v1::ATTEMPT_FAULT_GANG || before.fault() == v1::ATTEMPT_FAULT_GANG_PROVEN);
    });
    avoid(end.suspect == Suspect::kSilentGang || brought_it_on ? after(job.uncharged_failures())
                                                               : after_each(long_wait, static_cast<int>(broke) + 1));
    if (!has_other) *job.mutable_not_before() = after(job.uncharged_failures());
    if (is_sure) return v1::ATTEMPT_FAULT_GANG_PROVEN;
    return end.suspect == Suspect::kSilentGang ? v1::ATTEMPT_FAULT_SILENCE : v1::ATTEMPT_FAULT_GANG;
  }
  if (end.may_appear && !is_refused_elsewhere(job, launcher)) {
    if (!job.has_inputs_missing_since()) touch(job.mutable_inputs_missing_since());
    const int64_t now = now_micros(), ends = to_micros(job.inputs_missing_since()) +
                                             std::chrono::microseconds(options_.input_grace).count();
    if (now < ends) {
      avoid(after_each(long_wait, 1));  // whoever comes has it first
      *job.mutable_not_before() = at(std::min(
          ends, now + std::chrono::microseconds(std::max(options_.retry_backoff, options_.input_grace / kLooksInGrace))
                          .count()));
      return v1::ATTEMPT_FAULT_UNSEEN;
    }
  }
  // The first lost gang is replaced at once; then the wait doubles.
  job.set_failures(job.failures() + 1);
  if (job.failures() > 1) *job.mutable_not_before() = after(job.failures() - 1);
  return end.suspect == Suspect::kGang ? v1::ATTEMPT_FAULT_NO_OTHER_GANG : v1::ATTEMPT_FAULT_UNSPECIFIED;
}

void Coordinator::note_work(Operation& operation, const v1::Job& job, int64_t step) {
  announce_quarantines(operation, health_.worked(launcher_of(job.gang_id()), job.id(), step, now_micros()));
}

void Coordinator::announce_quarantines(Operation& operation, const std::vector<std::string>& launchers) {
  for (const std::string& launcher : launchers) {
    for (const auto& [id, gang] : gangs_) {
      if (launcher_of(id) == launcher)
        operation.event("", "", "GANG_QUARANTINED", concat("gang ", id, " ", health_.why(launcher, now_micros())));
    }
  }
}

void Coordinator::fail_stage(Operation& operation, const v1::Job& job, const std::string& reason) {
  PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  const absl::Status status = feed(operation, pipeline, StageFailed{job.stage().name(), reason, /*permanent=*/true});
  MOE_CHECK(status.ok(), "the pipeline engine refused a failure: ", status.message());
}

void Coordinator::lose_lease(Operation& operation, v1::Job& job, const std::string& reason, const std::string& message,
                             Suspect suspect) {
  end_attempt(operation, job, {v1::ATTEMPT_OUTCOME_LOST, 0, message, suspect});
  ++(*job.mutable_restarts())[reason];
  observer_.lease_expired(reason);
  observer_.restarted(job.id(), reason);
  const absl::Status status = apply(operation, job, JobEvent::kLeaseExpired, reason, message);
  MOE_CHECK(status.ok(), "a leased job could not lose its lease: ", status.message());
  if (is_terminal(job.state())) fail_stage(operation, job, message);
}

}  // namespace moe
