#include <unistd.h>

#include <algorithm>
#include <limits>
#include <set>

#include "common/error.h"
#include "common/exit_code.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "coordinator/input_check.h"
#include "coordinator/operation.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"

/// What the holder of a lease reports: heartbeats, metrics, checkpoints, the end. Every write checks that it is still
/// the holder.
namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr int kCheckpointsKept = 8;
/// Points kept of a job; above it, every other one goes.
constexpr size_t kPointsKept = 4000;

std::string checkpoint_path(const std::string& job, int64_t step, int attempt) {
  return job + "/checkpoints/" + JobFolder::checkpoint_name(step, attempt);
}

std::string output_path(const std::string& job, int attempt) {
  return job + "/" + JobFolder::output_name(attempt);
}

/// Every other point goes; validations, which are rare, only if there are too many of them alone. Returns the steps
/// that went.
std::vector<int64_t> thin_out(std::map<int64_t, v1::MetricPoint>& points) {
  std::vector<int64_t> removed;
  for (const bool spares_validations : {true, false}) {
    if (points.size() <= kPointsKept) break;
    size_t n = 0;
    std::erase_if(points, [&](const auto& entry) {
      if (spares_validations && entry.second.values().contains("validation_loss")) return false;
      if (n++ % 2 == 0) return false;
      removed.push_back(entry.first);
      return true;
    });
  }
  return removed;
}

}  // namespace

// Its gang was late, not dead: it neither said itself that the attempt is over nor took other work since.
bool Coordinator::may_take_up(const v1::Job& job) const {
  if (job.state() != v1::JOB_STATE_QUEUED || job.reason() != kLeaseExpired) return false;
  return std::none_of(leases_.begin(), leases_.end(),
                      [&](const auto& lease) { return lease.second.gang_id == job.gang_id(); });
}

absl::StatusOr<v1::Job*> Coordinator::fenced_job(Operation& operation, const std::string& gang_id,
                                                 const std::string& job_id, int attempt) {
  const auto found = jobs_.find(job_id);
  if (found == jobs_.end()) return absl::NotFoundError(concat("no job '", job_id, "'"));
  v1::Job& job = found->second;
  const auto fence = [&](const std::string& why) {
    observer_.fenced();
    return absl::AbortedError(
        concat("attempt ", attempt, " of job ", job_id, " is over: ", why, "; this gang must stop"));
  };
  if (job.attempt() != attempt || job.gang_id() != gang_id) {
    return fence(job.attempt() == 0 ? "nobody leased the job yet"
                                    : concat("attempt ", job.attempt(), " of gang ", job.gang_id(), " came after it"));
  }
  if (is_leased(job.state())) return &job;
  if (!may_take_up(job)) return fence(concat("the job is ", state_name(job.state())));
  for (v1::Attempt& record : *job.mutable_attempts()) {
    if (record.number() != attempt) continue;
    if (record.fault() == v1::ATTEMPT_FAULT_SILENCE) {
      job.set_uncharged_failures(std::max(0, job.uncharged_failures() - 1));
    } else {
      job.set_failures(std::max(0, job.failures() - 1));
    }
    auto& failed_on = *job.mutable_failed_on();
    failed_on.erase(std::remove(failed_on.begin(), failed_on.end(), record.launcher_id()), failed_on.end());
    record.clear_ended();
    record.clear_outcome();
    record.clear_message();
    record.clear_last_step();
    record.clear_fault();
  }
  if (absl::Status status =
          apply(operation, job, JobEvent::kWorkHeartbeat, "", "the gang came back before anyone took the job");
      !status.ok())
    return status;
  job.clear_not_before();
  leases_[job.id()] = {gang_id, clock_.steady() + options_.lease};
  operation.commit();  // whatever becomes of the call
  return &job;
}

absl::StatusOr<v1::HeartbeatResponse> Coordinator::heartbeat(const v1::HeartbeatRequest& request) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  Operation operation(*this, "gang " + request.gang_id());
  const auto gang = gangs_.find(request.gang_id());
  if (gang == gangs_.end()) return absl::NotFoundError(concat("gang ", request.gang_id(), " is not registered"));
  gang->second.heard = clock_.steady();
  touch(gang->second.record.mutable_last_heard());
  const Result<v1::Job*> found = fenced_job(operation, request.gang_id(), request.job_id(), request.attempt());
  if (!found.ok()) return found.status();
  v1::Job& job = **found;
  leases_[job.id()] = {request.gang_id(), clock_.steady() + options_.lease};
  *job.mutable_progress() = request.progress();
  const bool works = !request.progress().phase().empty() && request.progress().phase() != "preparing";
  if (works && job.state() == v1::JOB_STATE_ASSIGNED) {
    if (absl::Status status = apply(operation, job, JobEvent::kWorkHeartbeat, "", ""); !status.ok()) return status;
    job.clear_inputs_missing_since();
  }
  operation.commit();
  v1::HeartbeatResponse response;
  response.set_directive(job.state() == v1::JOB_STATE_STOPPING ? v1::DIRECTIVE_RELEASE : v1::DIRECTIVE_CONTINUE);
  return response;
}

absl::StatusOr<v1::ReportMetricsResponse> Coordinator::report_metrics(const v1::ReportMetricsRequest& request) {
  const std::lock_guard lock(mutex_);
  Operation operation(*this, "gang " + request.gang_id());
  const Result<v1::Job*> found = fenced_job(operation, request.gang_id(), request.job_id(), request.attempt());
  if (!found.ok()) return found.status();
  const std::string& id = request.job_id();
  auto& points = points_[id];
  int64_t& stride = point_stride_.try_emplace(id, 1).first->second;
  for (const v1::MetricPoint& point : request.points()) {
    if (point.step() % stride != 0 && !point.values().contains("validation_loss")) continue;
    points[point.step()] = point;
    operation.changes().points.push_back({id, point});
  }
  if (points.size() > kPointsKept) {
    stride *= 2;
    for (const int64_t step : thin_out(points)) operation.changes().removed_points.emplace_back(id, step);
  }
  if (!request.expert_load().empty()) reported_load_[id].experts = request.expert_load();
  if (!request.attention_expert_load().empty()) reported_load_[id].attention_experts = request.attention_expert_load();
  operation.commit();
  return v1::ReportMetricsResponse();
}

absl::StatusOr<v1::CommitCheckpointResponse> Coordinator::commit_checkpoint(
    const v1::CommitCheckpointRequest& request) {
  const v1::Checkpoint& checkpoint = request.checkpoint();
  const std::string expected = checkpoint_path(request.job_id(), checkpoint.step(), request.attempt());
  if (checkpoint.path() != expected) {
    return absl::InvalidArgumentError(concat("checkpoint path '", checkpoint.path(), "' is not '", expected, "'"));
  }
  std::string digest, unreadable;  // read before the lock is taken
  try {
    digest = xxh3_hex_of_file(options_.data_root / expected / "MANIFEST.json");
  } catch (const std::exception& error) {
    unreadable = message_of(error);
  }
  const std::lock_guard lock(mutex_);
  Operation operation(*this, "gang " + request.gang_id());
  const Result<v1::Job*> found = fenced_job(operation, request.gang_id(), request.job_id(), request.attempt());
  if (!found.ok()) return found.status();
  v1::Job& job = **found;
  for (const v1::Checkpoint& known : job.checkpoints()) {
    if (known.step() == checkpoint.step() && known.attempt() == request.attempt()) {
      if (known.digest() == checkpoint.digest()) return v1::CommitCheckpointResponse();
      return absl::AlreadyExistsError(
          concat("step ", known.step(), " of attempt ", known.attempt(), " is committed with another digest"));
    }
  }
  if (!unreadable.empty()) {
    return absl::FailedPreconditionError(concat("the coordinator cannot read the checkpoint: ", unreadable,
                                                "; --data-root must be the same folder on both sides"));
  }
  if (digest != checkpoint.digest()) {
    return absl::FailedPreconditionError(concat((options_.data_root / expected / "MANIFEST.json").string(),
                                                " has digest ", digest, ", not ", checkpoint.digest()));
  }
  const bool is_progress = std::all_of(job.checkpoints().begin(), job.checkpoints().end(),
                                       [&](const v1::Checkpoint& known) { return known.step() < checkpoint.step(); });
  v1::Checkpoint* added = job.add_checkpoints();
  *added = checkpoint;
  added->set_attempt(request.attempt());
  touch(added->mutable_committed());
  if (is_progress) {
    job.set_failures(0);
    job.set_uncharged_failures(0);
    job.set_room_failures(0);
    note_work(operation, job, checkpoint.step());
  }
  if (job.checkpoints_size() > kCheckpointsKept)
    job.mutable_checkpoints()->DeleteSubrange(0, job.checkpoints_size() - kCheckpointsKept);
  operation.changed(job);
  operation.event(job.pipeline_id(), job.id(), "CHECKPOINT", concat("step ", checkpoint.step()));
  operation.commit();
  return v1::CommitCheckpointResponse();
}

void Coordinator::add_artifact(Operation& operation, const v1::Job& job) {
  v1::Artifact artifact;
  artifact.set_id(job.output_path());
  if (const JobKind* kind = kind_of(job.stage())) artifact.set_kind(to_string(kind->leaves));
  artifact.set_digest(job.output_digest());
  artifact.set_job_id(job.id());
  artifact.set_attempt(job.attempt());
  const v1::Lease lease = lease_of(job);
  for (const std::string& reference : model_references(job.stage())) {
    const auto model = lease.models().find(reference);
    artifact.add_parents(model == lease.models().end() ? reference : model->second.path());
  }
  touch(artifact.mutable_created());
  artifacts_[artifact.id()] = artifact;
  operation.changes().artifacts.push_back(std::move(artifact));
}

bool Coordinator::was_refused_by_another(const v1::Job& job) const {
  const std::string& launcher = job.attempts().rbegin()->launcher_id();
  return std::any_of(job.attempts().begin(), job.attempts().end(), [&](const v1::Attempt& attempt) {
    return attempt.launcher_id() != launcher && attempt.exit_code() == static_cast<int>(ExitCode::kBadInput);
  });
}

bool Coordinator::may_be_readable(const v1::Job& job) const {
  std::set<std::string> refused;
  for (const v1::Attempt& attempt : job.attempts()) {
    if (attempt.last_step() > 0) return true;
    if (attempt.exit_code() == static_cast<int>(ExitCode::kBadInput)) refused.insert(attempt.launcher_id());
  }
  const std::vector<GangShape> gangs = gang_shapes();
  return std::any_of(gangs.begin(), gangs.end(), [&](const GangShape& gang) {
    return fits(need_of(job.stage().gang()), gang) && !refused.contains(gang.launcher);
  });
}

absl::StatusOr<v1::CompleteAttemptResponse> Coordinator::complete_attempt(const v1::CompleteAttemptRequest& request) {
  const bool has_output = request.outcome() == v1::ATTEMPT_OUTCOME_SUCCEEDED;
  const v1::Refusal& refusal = request.refusal();
  const auto holds_for_all = [&](const auto& holds) {
    return !refusal.unreadable().empty() &&
           std::all_of(refusal.unreadable().begin(), refusal.unreadable().end(), holds);
  };
  const bool sees_inputs = holds_for_all([](const std::string& path) { return ::access(path.c_str(), R_OK) == 0; });
  // What this machine sees to be missing is a mistake; what it cannot see either, a gang that is not there for the
  // moment may see.
  const bool may_appear =
      refusal.kind() == v1::REFUSAL_KIND_INPUTS && !sees_inputs &&
      std::none_of(refusal.unreadable().begin(), refusal.unreadable().end(),
                   [this](const std::string& path) { return is_missing_here(path, options_.data_root); });
  const bool are_shared = holds_for_all([this](const std::string& path) { return is_below(path, options_.data_root); });
  const std::string expected = output_path(request.job_id(), request.attempt());
  std::error_code ignored;
  const bool is_seen =
      has_output && fs::exists(options_.data_root / expected / "STAGE.json", ignored);  // before the lock is taken
  if (has_output && request.output_path() != expected) {
    return absl::InvalidArgumentError(concat("output path '", request.output_path(), "' is not '", expected, "'"));
  }
  JobEvent event = JobEvent::kAttemptRetryable;
  std::string reason;
  switch (request.outcome()) {
    case v1::ATTEMPT_OUTCOME_SUCCEEDED: event = JobEvent::kAttemptSucceeded; break;
    case v1::ATTEMPT_OUTCOME_RETRYABLE: reason = kAttemptFailed; break;
    case v1::ATTEMPT_OUTCOME_PERMANENT:
      event = JobEvent::kAttemptPermanent;
      reason = "PERMANENT_ERROR";
      break;
    case v1::ATTEMPT_OUTCOME_RELEASED:
      event = JobEvent::kAttemptReleased;
      reason = "RELEASED";
      break;
    default: return absl::InvalidArgumentError("an attempt ends SUCCEEDED, RETRYABLE, PERMANENT or RELEASED");
  }
  Suspect suspect = is_own_failure(request.exit_code()) ? Suspect::kGang : Suspect::kJob;
  if (refusal.kind() == v1::REFUSAL_KIND_INPUTS) {
    reason = kInputsUnreadable;
    suspect = sees_inputs ? Suspect::kGangForSure : Suspect::kGang;
  } else if (refusal.kind() == v1::REFUSAL_KIND_DATA_ROOT) {
    suspect = Suspect::kGang;
  } else if (refusal.kind() == v1::REFUSAL_KIND_ROOM) {
    reason = kNoRoom;
    suspect = Suspect::kRoom;
  }
  const std::lock_guard lock(mutex_);
  notice_stall();
  Operation operation(*this, "gang " + request.gang_id());
  if (const auto job = jobs_.find(request.job_id()); job != jobs_.end()) {
    for (const v1::Attempt& attempt : job->second.attempts()) {  // said before; the answer was lost
      if (attempt.number() == request.attempt() && attempt.gang_id() == request.gang_id() &&
          attempt.outcome() == request.outcome() && attempt.has_ended()) {
        return v1::CompleteAttemptResponse();
      }
    }
  }
  const Result<v1::Job*> found = fenced_job(operation, request.gang_id(), request.job_id(), request.attempt());
  if (!found.ok()) return found.status();
  if (has_output && !is_seen) {
    return absl::FailedPreconditionError(concat("the coordinator does not see ",
                                                (options_.data_root / expected / "STAGE.json").string(),
                                                "; --data-root must be the same folder on both sides"));
  }
  v1::Job& job = **found;
  // What this machine alone has, such as a user's own folder, every gang refuses: that says nothing against the second.
  if (suspect == Suspect::kGangForSure && !are_shared && was_refused_by_another(job)) suspect = Suspect::kGang;
  std::string message = request.message();
  if (event == JobEvent::kAttemptReleased &&
      job.state() == v1::JOB_STATE_STOPPING) {  // as it was asked to: who asked is what counts
    reason = job.reason();
    message = job.message();
  }
  end_attempt(operation, job, {request.outcome(), request.exit_code(), request.message(), suspect, may_appear});
  // Inputs that nobody here can read: trying again changes nothing.
  if (refusal.kind() == v1::REFUSAL_KIND_INPUTS && event == JobEvent::kAttemptRetryable &&
      job.attempts().rbegin()->fault() == v1::ATTEMPT_FAULT_NO_OTHER_GANG && !may_be_readable(job)) {
    event = JobEvent::kAttemptPermanent;
  }
  if (has_output) {
    job.set_output_path(request.output_path());
    job.set_output_digest(request.output_digest());
    *job.mutable_metrics() = request.metrics();
    add_artifact(operation, job);
    note_work(operation, job, std::numeric_limits<int64_t>::max());
  }
  if (event == JobEvent::kAttemptRetryable) {
    ++(*job.mutable_restarts())[reason];
    observer_.restarted(job.id(), reason);
  }
  if (absl::Status status = apply(operation, job, event, reason, message); !status.ok()) return status;
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    const Metrics metrics(job.metrics().begin(), job.metrics().end());
    if (absl::Status status =
            feed(operation, pipelines_.at(job.pipeline_id()), StageSucceeded{job.stage().name(), metrics, false});
        !status.ok())
      return status;
  } else if (is_terminal(job.state())) {
    fail_stage(operation, job, message.empty() ? state_name(job.state()) : message);
  }
  operation.commit();
  return v1::CompleteAttemptResponse();
}

}  // namespace moe
