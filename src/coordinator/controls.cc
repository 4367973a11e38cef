#include <algorithm>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "coordinator/operation.h"

/// What users do to pipelines and jobs: cancel, pause, resume, retry, approve, reject.
namespace moe {
namespace {

std::string said(const v1::ControlRequest& request, const char* verb) {
  return concat(verb, request.user().empty() ? "" : " by " + request.user(),
                request.comment().empty() ? "" : ": " + request.comment());
}

/// For a call that asks for what is so already, since scripts and people say things twice.
v1::ControlResponse nothing_to_do(const std::string& id, const std::string& state) {
  v1::ControlResponse response;
  response.set_id(id);
  response.set_state(state);
  response.set_note(concat("it was ", state, " before; nothing was left to do"));
  return response;
}

/// Who decided a gate, if a person did.
std::string decided_by(const v1::Pipeline& pipeline, const std::string& gate) {
  for (const v1::StageState& stage : pipeline.stages()) {
    if (stage.is_gate() && stage.name() == gate) return stage.decided_by();
  }
  return "";
}

}  // namespace

absl::StatusOr<v1::ControlResponse> Coordinator::cancel(const v1::ControlRequest& request) {
  return once<v1::ControlRequest, v1::ControlResponse>(
      "Cancel", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        const Result<std::string> id = resolve(request.id());
        if (!id.ok()) return id.status();
        const std::string message = said(request, "canceled");
        const auto job = jobs_.find(*id);
        v1::ControlResponse response;
        response.set_id(*id);
        if (job != jobs_.end()) {
          if (job->second.state() == v1::JOB_STATE_CANCELED) return nothing_to_do(*id, "CANCELED");
          if (absl::Status status = apply(operation, job->second, JobEvent::kCancel, "CANCELED", message); !status.ok())
            return status;
          if (is_terminal(job->second.state())) fail_stage(operation, job->second, message);
          response.set_state(state_name(job->second.state()));
          return response;
        }
        PipelineEntry& pipeline = pipelines_.at(*id);
        if (pipeline.engine.phase == PipelinePhase::kCanceled) return nothing_to_do(*id, "CANCELED");
        if (absl::Status status = feed(operation, pipeline, Cancel{}); !status.ok()) return status;
        for (const v1::Stage& stage : pipeline.record.spec().stages()) {
          const auto part = jobs_.find(*id + "-" + stage.name());
          if (part == jobs_.end() || is_terminal(part->second.state())) continue;
          if (absl::Status status = apply(operation, part->second, JobEvent::kCancel, "CANCELED", message);
              !status.ok())
            return status;
        }
        response.set_state(phase_of(pipeline));
        return response;
      });
}

absl::StatusOr<v1::ControlResponse> Coordinator::pause(const v1::ControlRequest& request) {
  return once<v1::ControlRequest, v1::ControlResponse>(
      "Pause", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        const Result<std::string> id = resolve(request.id());
        if (!id.ok()) return id.status();
        const std::string message = said(request, "paused");
        v1::ControlResponse response;
        response.set_id(*id);
        if (const auto job = jobs_.find(*id); job != jobs_.end()) {
          const bool is_pausing =
              job->second.state() == v1::JOB_STATE_STOPPING && job->second.intent() == v1::STOP_INTENT_PAUSE;
          if (job->second.state() == v1::JOB_STATE_PAUSED || is_pausing)
            return nothing_to_do(*id, state_name(job->second.state()));
          if (absl::Status status = apply(operation, job->second, JobEvent::kPause, "PAUSED", message); !status.ok())
            return status;
          response.set_state(state_name(job->second.state()));
          return response;
        }
        PipelineEntry& pipeline = pipelines_.at(*id);
        // Of a paused pipeline a job may have been resumed by itself.
        const std::vector<v1::JobState> states = job_states(pipeline);
        const bool moves = std::any_of(states.begin(), states.end(), [](v1::JobState state) {
          return state == v1::JOB_STATE_QUEUED || state == v1::JOB_STATE_ASSIGNED || state == v1::JOB_STATE_RUNNING;
        });
        const bool is_paused = pipeline.engine.phase == PipelinePhase::kPaused;
        if (is_paused && !moves) return nothing_to_do(*id, "PAUSED");
        if (!is_paused) {
          if (absl::Status status = feed(operation, pipeline, Pause{}); !status.ok()) return status;
        }
        operation.event(*id, "", "PAUSED", message);
        for (const v1::Stage& stage : pipeline.record.spec().stages()) {
          const auto part = jobs_.find(*id + "-" + stage.name());
          if (part == jobs_.end()) continue;
          const v1::JobState state = part->second.state();
          if (state != v1::JOB_STATE_QUEUED && state != v1::JOB_STATE_ASSIGNED && state != v1::JOB_STATE_RUNNING)
            continue;
          if (absl::Status status = apply(operation, part->second, JobEvent::kPause, "PAUSED", message); !status.ok())
            return status;
        }
        response.set_state(phase_of(pipeline));
        return response;
      });
}

absl::StatusOr<v1::ControlResponse> Coordinator::resume(const v1::ControlRequest& request) {
  return once<v1::ControlRequest, v1::ControlResponse>(
      "Resume", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        const Result<std::string> id = resolve(request.id());
        if (!id.ok()) return id.status();
        const std::string message = said(request, "resumed");
        v1::ControlResponse response;
        response.set_id(*id);
        if (const auto job = jobs_.find(*id); job != jobs_.end()) {
          if (absl::Status status = apply(operation, job->second, JobEvent::kResume, "", message); !status.ok())
            return status;
          response.set_state(state_name(job->second.state()));
          return response;
        }
        PipelineEntry& pipeline = pipelines_.at(*id);
        std::vector<v1::Job*> paused;
        for (const v1::Stage& stage : pipeline.record.spec().stages()) {
          const auto part = jobs_.find(*id + "-" + stage.name());
          if (part == jobs_.end()) continue;
          if (part->second.state() == v1::JOB_STATE_STOPPING) {
            return absl::FailedPreconditionError(
                concat("job ", part->first,
                       " is still saving its checkpoint; resume when it is PAUSED (moectl describe ", *id, ")"));
          }
          if (part->second.state() == v1::JOB_STATE_PAUSED) paused.push_back(&part->second);
        }
        // A pipeline that runs may still have jobs that were paused one by one.
        if (pipeline.engine.phase == PipelinePhase::kPaused || paused.empty()) {
          if (absl::Status status = feed(operation, pipeline, Resume{}); !status.ok()) return status;
          operation.event(*id, "", "RESUMED", message);
        }
        for (v1::Job* job : paused) {
          if (absl::Status status = apply(operation, *job, JobEvent::kResume, "", message); !status.ok()) return status;
        }
        response.set_state(phase_of(pipeline));
        return response;
      });
}

absl::StatusOr<v1::ControlResponse> Coordinator::retry(const v1::ControlRequest& request) {
  return once<v1::ControlRequest, v1::ControlResponse>(
      "Retry", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        const Result<std::string> id = resolve(request.id());
        if (!id.ok()) return id.status();
        const bool is_job = jobs_.contains(*id);
        PipelineEntry& pipeline = pipelines_.at(is_job ? jobs_.at(*id).pipeline_id() : *id);
        std::vector<v1::Job*> failed;
        for (const v1::Stage& stage : pipeline.record.spec().stages()) {
          const auto part = jobs_.find(pipeline.record.id() + "-" + stage.name());
          if (part == jobs_.end() || (is_job && part->first != *id)) continue;
          if (part->second.state() == v1::JOB_STATE_FAILED) failed.push_back(&part->second);
        }
        if (failed.empty())
          return absl::FailedPreconditionError(concat(*id, " has no FAILED job; only those can be retried"));
        for (v1::Job* job : failed) {
          if (absl::Status status = feed(operation, pipeline, StageRetried{job->stage().name()}); !status.ok())
            return status;
          job->set_failures(0);
          job->clear_not_before();
          job->clear_failed_on();
          job->clear_avoid_until();
          job->set_uncharged_failures(0);
          job->set_room_failures(0);
          job->clear_inputs_missing_since();
          job->clear_finished();
          if (absl::Status status = apply(operation, *job, JobEvent::kRetry, "", said(request, "retried"));
              !status.ok())
            return status;
        }
        pipeline.record.clear_finished();
        for (auto& [job_id, job] : jobs_) {
          if (job.pipeline_id() != pipeline.record.id() || job.reason() != "UPSTREAM_FAILED") continue;
          job.clear_reason();
          job.clear_message();
          operation.changed(job);
        }
        v1::ControlResponse response;
        response.set_id(*id);
        response.set_state(is_job ? state_name(jobs_.at(*id).state()) : phase_of(pipeline));
        return response;
      });
}

bool Coordinator::let_jobs_back(Operation& operation, const std::string& launcher) {
  bool is_any = false;
  for (auto& [id, job] : jobs_) {
    auto& names = *job.mutable_failed_on();
    const auto end = is_terminal(job.state()) ? names.end() : std::remove(names.begin(), names.end(), launcher);
    if (end == names.end()) continue;
    const bool is_queued = job.state() == v1::JOB_STATE_QUEUED;
    if (is_queued) queue_.erase(queue_entry(job));
    names.erase(end, names.end());
    if (names.empty()) job.clear_avoid_until();
    if (is_queued) queue_.insert(queue_entry(job));
    operation.changed(job);
    is_any = true;
  }
  return is_any;
}

absl::StatusOr<v1::ControlResponse> Coordinator::readmit_gang(const v1::ControlRequest& request) {
  return once<v1::ControlRequest, v1::ControlResponse>(
      "ReadmitGang", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        notice_stall();
        const Result<std::string> id = resolve_gang(request.id());
        if (!id.ok()) return id.status();
        const auto lease =
            std::find_if(leases_.begin(), leases_.end(), [&](const auto& held) { return held.second.gang_id == *id; });
        const std::string launcher = launcher_of(*id);
        const bool was_quarantined = health_.is_quarantined(launcher, now_micros());
        health_.forgive(launcher);
        v1::ControlResponse response;
        response.set_id(*id);
        response.set_state(shown_gang(gangs_.at(*id), lease == leases_.end() ? "" : lease->first).state());
        if (let_jobs_back(operation, launcher) || was_quarantined) {
          operation.event("", "", "GANG_READMITTED", concat("gang ", *id, " ", said(request, "readmitted")));
        } else {
          response.set_note("it was not quarantined and no job was kept from it; nothing was left to do");
        }
        return response;
      });
}

absl::StatusOr<v1::ControlResponse> Coordinator::decide_gate(const v1::DecideGateRequest& request) {
  return once<v1::DecideGateRequest, v1::ControlResponse>(
      "DecideGate", request, [&](Operation& operation) -> Result<v1::ControlResponse> {
        const Result<std::string> id = resolve_pipeline(request.pipeline_id());
        if (!id.ok()) return id.status();
        PipelineEntry& pipeline = pipelines_.at(*id);
        std::string gate = request.gate();
        if (gate.empty()) {
          for (const StageState& stage : pipeline.engine.stages) {
            if (stage.gate && stage.gate_status == GateStatus::kHeld) gate = stage.name;
          }
          if (gate.empty())
            return absl::FailedPreconditionError(
                concat("no gate holds pipeline ", *id, " (it is ", phase_of(pipeline), ")"));
        }
        for (const StageState& stage : pipeline.engine.stages) {
          const bool is_decided =
              stage.gate_status == (request.approve() ? GateStatus::kApproved : GateStatus::kFailed);
          if (!stage.gate || stage.name != gate || !is_decided || decided_by(pipeline.record, gate).empty()) continue;
          v1::ControlResponse response = nothing_to_do(*id, phase_of(pipeline));
          response.set_note(concat("gate '", gate, "' was ", request.approve() ? "approved" : "rejected",
                                   " before, by ", decided_by(pipeline.record, gate)));
          return response;
        }
        const absl::Status status =
            request.approve() ? feed(operation, pipeline, Approve{gate}) : feed(operation, pipeline, Reject{gate});
        if (!status.ok()) return status;
        for (v1::StageState& stage : *pipeline.record.mutable_stages()) {
          if (stage.name() == gate) {
            stage.set_decided_by(concat(request.user().empty() ? "user" : request.user(),
                                        request.comment().empty() ? "" : ": " + request.comment()));
          }
        }
        operation.event(*id, "", request.approve() ? "GATE_APPROVED" : "GATE_REJECTED",
                        concat(gate, request.comment().empty() ? "" : ": " + request.comment()));
        v1::ControlResponse response;
        response.set_id(*id);
        response.set_state(phase_of(pipeline));
        return response;
      });
}

}  // namespace moe
