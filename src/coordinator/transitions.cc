#include <algorithm>

#include "common/error.h"
#include "common/file_io.h"
#include "coordinator/operation.h"
#include "pipeline/pipeline_status.h"

/// How jobs and pipelines move: every change of state goes through apply() and feed().
namespace moe {
namespace {

constexpr int kMaxAttemptsKept = 20;
constexpr int kMaxBackoffDoublings = 5;   // 30 s -> 10 min and a bit

v1::Attempt* current_attempt(v1::Job& job) {
  for (v1::Attempt& attempt : *job.mutable_attempts()) {
    if (attempt.number() == job.attempt()) return &attempt;
  }
  return nullptr;
}

}  // namespace

QueuedJob queue_entry(const v1::Job& job) {
  return {to_micros(job.created()), job.id(), need_of(job.stage().gang()), job.has_not_before() ? to_micros(job.not_before()) : 0};
}

void Coordinator::Operation::event(const std::string& pipeline_id, const std::string& job_id, const std::string& type, const std::string& message) {
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
  for (const std::string& id : pipelines_) {
    PipelineEntry& entry = coordinator_.pipelines_.at(id);
    to_proto(entry.engine, entry.record);
    changes_.pipelines.push_back(entry.record);
    coordinator_.changed_pipelines_.insert(id);
  }
  for (const std::string& id : jobs_) changes_.jobs.push_back(coordinator_.jobs_.at(id));
  if (changes_.empty()) return;
  ++coordinator_.version_;
  coordinator_.store_.commit(std::move(changes_));
  coordinator_.observer_.changed();
  changes_ = {};
  jobs_.clear();
  pipelines_.clear();
}

absl::Status Coordinator::apply(Operation& operation, v1::Job& job, JobEvent event, const std::string& reason, const std::string& message) {
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
    return absl::FailedPreconditionError(concat("job ", job.id(), " is ", state_name(from.state), ": ", event_name(event), " is not possible there"));
  }
  if (from.state == v1::JOB_STATE_QUEUED) queue_.erase(queue_entry(job));
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
        if (absl::Status status = apply(operation, blocked->second, JobEvent::kUpstreamFailed, "UPSTREAM_FAILED", finish->reason); !status.ok()) return status;
      }
    }
  }
  operation.changed(pipeline);
  return absl::OkStatus();
}

void Coordinator::end_attempt(v1::Job& job, v1::AttemptOutcome outcome, int exit_code, const std::string& message) {
  if (v1::Attempt* attempt = current_attempt(job)) {
    touch(attempt->mutable_ended());
    attempt->set_outcome(outcome);
    attempt->set_exit_code(exit_code);
    attempt->set_message(message);
    attempt->set_last_step(job.progress().step());
  }
  auto& attempts = *job.mutable_attempts();
  if (attempts.size() > kMaxAttemptsKept) attempts.DeleteSubrange(0, attempts.size() - kMaxAttemptsKept);
  // The first lost gang is replaced at once; then the wait doubles.
  if (outcome == v1::ATTEMPT_OUTCOME_RETRYABLE || outcome == v1::ATTEMPT_OUTCOME_LOST) {
    job.set_failures(job.failures() + 1);
    job.clear_not_before();
    if (job.failures() > 1) {
      const int doublings = std::min(job.failures() - 2, kMaxBackoffDoublings);
      const int64_t wait = options_.retry_backoff.count() * (int64_t{1} << doublings) * 1000;
      const int64_t at = now_micros() + wait;
      job.mutable_not_before()->set_seconds(at / 1'000'000);
      job.mutable_not_before()->set_nanos(static_cast<int32_t>(at % 1'000'000) * 1000);
    }
  } else {
    job.clear_not_before();
  }
}

void Coordinator::fail_stage(Operation& operation, const v1::Job& job, const std::string& reason) {
  PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  const absl::Status status = feed(operation, pipeline, StageFailed{job.stage().name(), reason, /*permanent=*/true});
  MOE_CHECK(status.ok(), "the pipeline engine refused a failure: ", status.message());
}

void Coordinator::lose_lease(Operation& operation, v1::Job& job, const std::string& reason, const std::string& message) {
  end_attempt(job, v1::ATTEMPT_OUTCOME_LOST, 0, message);
  ++(*job.mutable_restarts())[reason];
  observer_.lease_expired(reason);
  observer_.restarted(job.id(), reason);
  const absl::Status status = apply(operation, job, JobEvent::kLeaseExpired, reason, message);
  MOE_CHECK(status.ok(), "a leased job could not lose its lease: ", status.message());
  if (is_terminal(job.state())) fail_stage(operation, job, message);
}

}  // namespace moe
