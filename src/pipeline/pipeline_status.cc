#include "pipeline/pipeline_status.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "common/error.h"

namespace moe {
namespace {

constexpr auto kPhases = {PipelinePhase::kRunning,   PipelinePhase::kHeld,   PipelinePhase::kPaused,
                          PipelinePhase::kSucceeded, PipelinePhase::kFailed, PipelinePhase::kCanceled};
constexpr auto kStageStatuses = {StageStatus::kPending,   StageStatus::kReady,  StageStatus::kRunning,
                                 StageStatus::kSucceeded, StageStatus::kFailed, StageStatus::kSkipped};
constexpr auto kGateStatuses = {GateStatus::kPending, GateStatus::kPassed,   GateStatus::kWarned,
                                GateStatus::kHeld,    GateStatus::kApproved, GateStatus::kFailed};

template <typename Enum>
Enum parse(const std::string& word, const std::initializer_list<Enum>& values, const std::string& whose) {
  std::string known;
  for (const Enum value : values) {
    if (word == to_string(value)) return value;
    known += concat(known.empty() ? "" : ", ", to_string(value));
  }
  throw Corruption(concat(whose, " is '", word, "', which is none of ", known,
                          "; was it stored by another version of this program?"));
}

std::string name_of(const v1::Pipeline& pipeline) {
  return concat("pipeline '", pipeline.id().empty() ? pipeline.spec().name() : pipeline.id(), "'");
}

}  // namespace

void to_proto(const PipelineState& state, v1::Pipeline& pipeline) {
  pipeline.set_phase(to_string(state.phase));
  pipeline.clear_only_jobs_paused();
  pipeline.set_reason(state.reason);
  pipeline.set_is_started(state.is_started);
  while (pipeline.stages_size() > static_cast<int>(state.stages.size())) pipeline.mutable_stages()->RemoveLast();
  for (size_t i = 0; i < state.stages.size(); ++i) {
    const StageState& stage = state.stages[i];
    const int index = static_cast<int>(i);
    v1::StageState& written = index < pipeline.stages_size() ? *pipeline.mutable_stages(index) : *pipeline.add_stages();
    if (written.name() != stage.name || written.is_gate() != stage.gate.has_value()) written.Clear();
    written.set_name(stage.name);
    written.set_is_gate(stage.gate.has_value());
    written.set_status(stage.gate ? to_string(stage.gate_status) : to_string(stage.status));
    written.set_message(stage.message);
    written.clear_metrics();
    written.mutable_metrics()->insert(stage.metrics.begin(), stage.metrics.end());
  }
}

PipelineState from_proto(const v1::Pipeline& pipeline) {
  const std::string pipeline_name = name_of(pipeline);
  PipelineState state = make_pipeline_state(pipeline.spec());
  if (pipeline.stages_size() != static_cast<int>(state.stages.size())) {
    throw Corruption(concat(pipeline_name, " has the state of ", pipeline.stages_size(), " stages, but its spec has ",
                            state.stages.size()));
  }
  state.phase = parse(pipeline.phase(), kPhases, concat("phase of ", pipeline_name));
  if (pipeline.only_jobs_paused()) state.phase = PipelinePhase::kRunning;
  state.reason = pipeline.reason();
  state.is_started = pipeline.is_started();
  for (size_t i = 0; i < state.stages.size(); ++i) {
    StageState& stage = state.stages[i];
    const v1::StageState& stored = pipeline.stages(static_cast<int>(i));
    if (stored.name() != stage.name || stored.is_gate() != stage.gate.has_value()) {
      throw Corruption(concat("stage ", i, " of ", pipeline_name, " is ", stored.is_gate() ? "gate" : "stage", " '",
                              stored.name(), "' in its state, but ", stage.gate ? "gate" : "stage", " '", stage.name,
                              "' in its spec"));
    }
    const std::string whose = concat("status of '", stage.name, "' in ", pipeline_name);
    if (stage.gate) {
      stage.gate_status = parse(stored.status(), kGateStatuses, whose);
    } else {
      stage.status = parse(stored.status(), kStageStatuses, whose);
    }
    stage.message = stored.message();
    stage.metrics = Metrics(stored.metrics().begin(), stored.metrics().end());
  }
  return state;
}

bool only_jobs_pause(const PipelineState& state, const std::vector<v1::JobState>& jobs) {
  if (state.phase != PipelinePhase::kRunning) return false;
  const auto moves = [](v1::JobState job) {
    return job == v1::JOB_STATE_QUEUED || job == v1::JOB_STATE_ASSIGNED || job == v1::JOB_STATE_RUNNING ||
           job == v1::JOB_STATE_STOPPING;
  };
  return std::find(jobs.begin(), jobs.end(), v1::JOB_STATE_PAUSED) != jobs.end() &&
         std::none_of(jobs.begin(), jobs.end(), moves);
}

void show_paused_jobs(const PipelineState& state, const std::vector<v1::JobState>& jobs, v1::Pipeline& pipeline) {
  if (!only_jobs_pause(state, jobs)) return;
  pipeline.set_phase(to_string(PipelinePhase::kPaused));
  pipeline.set_only_jobs_paused(true);
}

}  // namespace moe
