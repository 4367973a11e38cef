#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <utility>

#include "common/error.h"
#include "common/file_io.h"
#include "coordinator/operation.h"
#include "pipeline/inputs.h"

/// Gangs and leases: who runs what, and for how long that is believed.
namespace moe {
namespace {

using google::protobuf::util::TimeUtil;

/// A gang without a lease that was not heard of for this many leases is forgotten.
constexpr int kForgetGangLeases = 20;
constexpr size_t kReplacedGangsKept = 1000;
constexpr char kOwnLauncherId[] =
    "every gang needs a MOE_LAUNCHER_ID of its own: deploy/gang.sh makes one; in a launch line of your own write -x "
    "MOE_LAUNCHER_ID=$(cat /proc/sys/kernel/random/uuid)";

/// " with exit code 137 (signal 9)"; empty if the launcher did not say.
std::string how_it_ended(const v1::Gang& successor) {
  if (!successor.has_previous_exit_code()) return "";
  const int code = successor.previous_exit_code();
  return concat(" with exit code ", code, code > 128 ? concat(" (signal ", code - 128, ")") : "");
}

/// Whether its predecessor failed by itself; a signal that asks it to end is somebody else's wish.
bool is_crash(const v1::Gang& successor) {
  const int code = successor.previous_exit_code();
  return is_own_failure(code) || (code > 128 && code != 128 + SIGTERM && code != 128 + SIGINT);
}

/// "0.4"
std::string tenths(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", seconds);
  return text;
}

/// Why the gang does not see this coordinator's data root.
std::string other_root(const v1::RegisterGangRequest& request, const CoordinatorOptions& options) {
  const std::string where = request.gang().ranks(0).node().empty() ? "" : " on " + request.gang().ranks(0).node();
  return concat(
      "gang ", request.gang().id(), " has --data-root ", request.data_root(), where,
      request.root_id().empty() ? ", where there is no .moe-root-id" : ", which is the data root " + request.root_id(),
      "; the coordinator has ", options.data_root.string(), ", which is the data root ", options.root_id,
      ": give the gang that folder, or mount the storage there");
}

}  // namespace

absl::Status Coordinator::refuse_registration(const v1::RegisterGangRequest& request) const {
  const v1::Gang& gang = request.gang();
  if (gang.id().empty() || gang.ranks().empty())
    return absl::InvalidArgumentError("a gang needs an id and at least one rank");
  if (request.root_id() != options_.root_id) return absl::FailedPreconditionError(other_root(request, options_));
  // It was said to have ended, and calls: its launcher's id is another's too.
  for (const auto& [id, successor] : replaced_gangs_) {
    if (id != gang.id()) continue;
    return absl::AbortedError(concat("gang ", id, " must end: ", successor,
                                     " came in its place, with the same launcher id '", gang.launcher_id(), "'; ",
                                     kOwnLauncherId));
  }
  if (gang.launcher_id().empty() || gang.has_previous_exit_code()) return absl::OkStatus();
  for (const auto& [id, other] : gangs_) {
    const std::chrono::duration<double> silent = clock_.steady() - other.heard;
    if (id == gang.id() || other.record.launcher_id() != gang.launcher_id() || silent > options_.lease) continue;
    return absl::AlreadyExistsError(
        concat("gang ", id, " has the launcher id '", gang.launcher_id(), "' too and was heard of ",
               tenths(silent.count()), " s ago; ", kOwnLauncherId, ". If that gang has ended, this one may come in ",
               tenths(std::chrono::duration<double>(options_.lease).count() - silent.count()), " s"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::RegisterGangResponse> Coordinator::register_gang(const v1::RegisterGangRequest& request) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  const v1::Gang& gang = request.gang();
  if (absl::Status refusal = refuse_registration(request); !refusal.ok()) return refusal;
  Operation operation(*this, "gang " + gang.id());
  // The same launcher started a new process: the old one is dead, whatever its lease says, for the launcher told how it
  // ended or it was not heard of for as long as a lease.
  std::vector<std::string> replaced;
  for (const auto& [id, other] : gangs_) {
    if (id != gang.id() && !gang.launcher_id().empty() && other.record.launcher_id() == gang.launcher_id())
      replaced.push_back(id);
  }
  for (const std::string& old : replaced) {
    std::vector<std::string> held;
    for (const auto& [job, lease] : leases_) {
      if (lease.gang_id == old) held.push_back(job);
    }
    for (const std::string& job : held) {
      lose_lease(operation, jobs_.at(job), kGangRestarted,
                 concat("gang ", old, " ended", how_it_ended(gang), " and was started again as ", gang.id()),
                 is_crash(gang) ? Suspect::kGang : Suspect::kSilentGang);
    }
    gangs_.erase(old);
    operation.changes().removed_gangs.push_back(old);
    replaced_gangs_.emplace_back(old, gang.id());
    if (replaced_gangs_.size() > kReplacedGangsKept) replaced_gangs_.pop_front();
  }
  const bool is_new = !gangs_.contains(gang.id());
  GangEntry& entry = gangs_[gang.id()];
  entry.record = gang;
  touch(entry.record.mutable_registered());
  touch(entry.record.mutable_last_heard());
  entry.heard = clock_.steady();
  operation.changes().gangs.push_back(entry.record);
  if (is_new)
    operation.event("", "", "GANG_REGISTERED",
                    concat(gang.ranks_size(), " ", gang.device(), " ranks on ", gang.ranks(0).node()));
  operation.commit();
  v1::RegisterGangResponse response;
  *response.mutable_heartbeat_interval() = TimeUtil::MillisecondsToDuration(options_.heartbeat.count());
  *response.mutable_lease_duration() = TimeUtil::MillisecondsToDuration(options_.lease.count());
  return response;
}

v1::Lease Coordinator::lease_of(const v1::Job& job) const {
  v1::Lease lease;
  lease.set_job_id(job.id());
  lease.set_attempt(job.attempt());
  *lease.mutable_stage() = job.stage();
  lease.set_root_id(options_.root_id);
  const PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  for (const auto& [name, input] : pipeline.record.spec().inputs()) {
    (*lease.mutable_models())[name].set_path(input.path());
  }
  for (const v1::Stage& stage : pipeline.record.spec().stages()) {
    const auto made = jobs_.find(job.pipeline_id() + "-" + stage.name());
    if (made == jobs_.end() || made->second.state() != v1::JOB_STATE_SUCCEEDED) continue;
    v1::ModelInput& model = (*lease.mutable_models())[stage.name() + ".model"];
    model.set_path(made->second.output_path());
    model.set_digest(made->second.output_digest());
    model.set_is_output(true);
  }
  for (const std::string& file : evaluation_files(pipeline.record.spec())) lease.add_evaluation_files(file);
  for (auto checkpoint = job.checkpoints().rbegin(); checkpoint != job.checkpoints().rend(); ++checkpoint)
    *lease.add_checkpoints() = *checkpoint;
  *lease.mutable_lease_duration() = TimeUtil::MillisecondsToDuration(options_.lease.count());
  *lease.mutable_heartbeat_interval() = TimeUtil::MillisecondsToDuration(options_.heartbeat.count());
  return lease;
}

absl::StatusOr<v1::AcquireLeaseResponse> Coordinator::acquire_lease(const v1::AcquireLeaseRequest& request) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  const auto gang = gangs_.find(request.gang_id());
  if (gang == gangs_.end()) return absl::NotFoundError(concat("gang ", request.gang_id(), " is not registered"));
  gang->second.heard = clock_.steady();
  touch(gang->second.record.mutable_last_heard());
  v1::AcquireLeaseResponse response;
  for (const auto& [job, lease] : leases_) {
    if (lease.gang_id != request.gang_id()) continue;
    *response.mutable_lease() = lease_of(jobs_.at(job));  // the answer before was lost
    leases_[job].expiry = std::max(lease.expiry, clock_.steady() + options_.lease);
    return response;
  }
  const GangShape shape = shape_of(request.gang_id(), gang->second, /*is_idle=*/true);
  const QueuedJob* picked = pick(queue_, shape, gang_shapes(), now_micros());
  if (picked == nullptr) return response;
  v1::Job& job = jobs_.at(picked->id);
  Operation operation(*this, "gang " + request.gang_id());
  job.set_attempt(job.attempt() + 1);
  job.set_gang_id(request.gang_id());
  job.clear_progress();
  v1::Attempt* attempt = job.add_attempts();
  attempt->set_number(job.attempt());
  attempt->set_gang_id(request.gang_id());
  attempt->set_launcher_id(shape.launcher);
  touch(attempt->mutable_started());
  if (absl::Status status = apply(operation, job, JobEvent::kLeaseGranted, "",
                                  concat("attempt ", job.attempt(), " on gang ", request.gang_id()));
      !status.ok()) {
    return status;
  }
  if (!job.has_started()) touch(job.mutable_started());
  leases_[job.id()] = {request.gang_id(), clock_.steady() + options_.lease};
  PipelineEntry& pipeline = pipelines_.at(job.pipeline_id());
  for (const StageState& stage : pipeline.engine.stages) {
    if (stage.name != job.stage().name() || stage.status != StageStatus::kReady) continue;
    if (absl::Status status = feed(operation, pipeline, StageStarted{stage.name}); !status.ok()) return status;
    break;
  }
  operation.commit();
  *response.mutable_lease() = lease_of(job);
  return response;
}

absl::StatusOr<v1::DeregisterGangResponse> Coordinator::deregister_gang(const v1::DeregisterGangRequest& request) {
  const std::lock_guard lock(mutex_);
  notice_stall();
  if (!gangs_.contains(request.gang_id())) return v1::DeregisterGangResponse();
  Operation operation(*this, "gang " + request.gang_id());
  std::vector<std::string> held;
  for (const auto& [job, lease] : leases_) {
    if (lease.gang_id == request.gang_id()) held.push_back(job);
  }
  for (const std::string& job : held)
    lose_lease(operation, jobs_.at(job), kGangLeft, "the gang left: " + request.reason(), Suspect::kNobody);
  gangs_.erase(request.gang_id());
  operation.changes().removed_gangs.push_back(request.gang_id());
  operation.event("", "", kGangLeft, request.reason());
  operation.commit();
  return v1::DeregisterGangResponse();
}

void Coordinator::notice_stall() {
  const auto now = clock_.steady();
  const auto gap = now - std::exchange(last_call_, now);
  if (gap <= options_.lease / 2) return;
  // tick() is called far more often, so this process stood still, and heartbeats may wait in the sockets: nobody is
  // blamed for that. Gangs that were silent before stay it.
  for (auto& [job, lease] : leases_) lease.expiry = std::max(lease.expiry, now + options_.lease);
  for (auto& [id, gang] : gangs_) gang.heard = std::min(now, gang.heard + gap);
}

void Coordinator::tick() {
  const std::lock_guard lock(mutex_);
  notice_stall();
  const auto now = clock_.steady();
  health_.forget_old(now_micros());
  Operation operation(*this, "coordinator");
  std::vector<std::string> expired;
  for (const auto& [job, lease] : leases_) {
    if (lease.expiry <= now) expired.push_back(job);
  }
  for (const std::string& job : expired) {
    lose_lease(operation, jobs_.at(job), kLeaseExpired,
               concat("no heartbeat of gang ", leases_.at(job).gang_id, " for ", options_.lease.count() / 1000.0, " s"),
               Suspect::kSilentGang);
  }
  std::vector<std::string> forgotten;
  for (const auto& [id, gang] : gangs_) {
    const bool holds =
        std::any_of(leases_.begin(), leases_.end(), [&](const auto& lease) { return lease.second.gang_id == id; });
    if (!holds && now - gang.heard > kForgetGangLeases * options_.lease) forgotten.push_back(id);
  }
  for (const std::string& id : forgotten) {
    gangs_.erase(id);
    operation.changes().removed_gangs.push_back(id);
    operation.event(
        "", "", "GANG_LOST",
        concat("gang ", id, " was not heard of for ", kForgetGangLeases * options_.lease.count() / 1000.0, " s"));
  }
  // The grace of inputs that nobody sees runs while nobody is there who might: whoever came may be at other work.
  const std::vector<GangShape> shapes = gang_shapes();
  for (const QueuedJob& entry : queue_) {
    v1::Job& job = jobs_.at(entry.id);
    if (!job.has_inputs_missing_since() || !another_could_run(entry.need, entry.failed_on, "", shapes)) continue;
    job.clear_inputs_missing_since();
    operation.changed(job);
  }
  operation.commit();
}

}  // namespace moe
