#include "pipeline/advance.h"

#include <algorithm>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "pipeline/problem.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

bool is_done(const StageState& stage) {
  return stage.status == StageStatus::kSucceeded || stage.status == StageStatus::kSkipped;
}

bool lets_pass(const StageState& gate) {
  return gate.gate_status == GateStatus::kPassed || gate.gate_status == GateStatus::kWarned ||
         gate.gate_status == GateStatus::kApproved;
}

bool is_active(const StageState& stage) {
  return stage.status == StageStatus::kReady || stage.status == StageStatus::kRunning;
}

class Engine {
 public:
  explicit Engine(PipelineState& state) : state_(state) {}

  void handle(const Start&) {
    if (state_.is_started || is_terminal(state_.phase)) refuse("start", "it has been started already");
    state_.is_started = true;
  }

  void handle(const StageStarted& event) {
    StageState& stage = stage_named(event.name);
    if (stage.status != StageStatus::kReady) refuse_stage("start", stage);
    stage.status = StageStatus::kRunning;
  }

  void handle(const StageSucceeded& event) {
    StageState& stage = stage_named(event.name);
    if (!is_active(stage)) refuse_stage("complete", stage);
    stage.status = event.already_done ? StageStatus::kSkipped : StageStatus::kSucceeded;
    stage.metrics = event.metrics;
    stage.message.clear();
  }

  void handle(const StageFailed& event) {
    StageState& stage = stage_named(event.name);
    const bool gives_up_early = event.permanent && stage.status == StageStatus::kPending;
    if (!is_active(stage) && !gives_up_early) refuse_stage("fail", stage);
    stage.message = event.reason;
    stage.status = event.permanent ? StageStatus::kFailed : StageStatus::kPending;
    if (event.permanent && !is_terminal(state_.phase)) {
      finish(PipelinePhase::kFailed, concat("stage '", stage.name, "' failed: ", event.reason));
    }
  }

  void handle(const StageRetried& event) {
    StageState& stage = stage_named(event.name);
    if (stage.status != StageStatus::kFailed) refuse_stage("be retried", stage);
    if (is_terminal(state_.phase) && state_.phase != PipelinePhase::kFailed)
      refuse("retry a stage of", "it did not fail");
    stage.status = StageStatus::kReady;
    stage.message.clear();
    if (state_.phase != PipelinePhase::kFailed) return;
    state_.phase = phase_when_live();
    state_.reason.clear();
  }

  void handle(const Approve& event) {
    held_gate("approve", event.gate).gate_status = GateStatus::kApproved;
    if (state_.phase == PipelinePhase::kHeld) state_.phase = PipelinePhase::kRunning;
  }

  void handle(const Reject& event) {
    StageState& gate = held_gate("reject", event.gate);
    gate.gate_status = GateStatus::kFailed;
    finish(PipelinePhase::kFailed, concat("gate '", gate.name, "' was rejected: ", gate.message));
  }

  void handle(const Cancel&) {
    if (is_terminal(state_.phase)) refuse("cancel", "it has ended");
    finish(PipelinePhase::kCanceled, "canceled");
  }

  void handle(const Pause&) {
    if (!state_.is_started || is_terminal(state_.phase) || state_.phase == PipelinePhase::kPaused) {
      refuse("pause", "only a RUNNING or HELD pipeline can be paused");
    }
    state_.phase = PipelinePhase::kPaused;
  }

  void handle(const Resume&) {
    if (state_.phase != PipelinePhase::kPaused) refuse("resume", "it is not PAUSED");
    state_.phase = phase_when_live();
  }

  void schedule() {
    if (!state_.is_started || is_terminal(state_.phase) || state_.phase == PipelinePhase::kPaused) return;
    walk();
    if (state_.phase == PipelinePhase::kRunning && std::none_of(state_.stages.begin(), state_.stages.end(), is_active))
      fail_if_stuck();
  }

  std::vector<Action> take_actions() { return std::move(actions_); }

 private:
  // Judges gates and starts stages, front to back, until a gate stops the walk.
  void walk() {
    bool all_done = true;
    for (StageState& stage : state_.stages) {
      if (stage.gate) {
        if (stage.gate_status == GateStatus::kPending && needs_are_done(stage)) judge(stage);
        if (is_terminal(state_.phase) || !lets_pass(stage)) return;
        continue;
      }
      if (stage.status == StageStatus::kPending && needs_are_done(stage)) {
        stage.status = StageStatus::kReady;
        actions_.push_back(StartStage{stage.name});
      }
      all_done = all_done && is_done(stage);
    }
    if (all_done) finish(PipelinePhase::kSucceeded, "every stage is done");
  }

  // One of several failures was retried; what is left of the others ends the pipeline.
  void fail_if_stuck() {
    for (const StageState& stage : state_.stages) {
      if (stage.gate && stage.gate_status == GateStatus::kFailed) return finish(PipelinePhase::kFailed, stage.message);
      if (!stage.gate && stage.status == StageStatus::kFailed) {
        return finish(PipelinePhase::kFailed, concat("stage '", stage.name, "' failed: ", stage.message));
      }
    }
  }

  PipelinePhase phase_when_live() const {
    const bool is_held = std::any_of(state_.stages.begin(), state_.stages.end(), [](const StageState& stage) {
      return stage.gate && stage.gate_status == GateStatus::kHeld;
    });
    return is_held ? PipelinePhase::kHeld : PipelinePhase::kRunning;
  }

  [[noreturn]] void refuse(const char* verb, const std::string& why) const {
    throw InvalidArgument(concat("cannot ", verb, " the pipeline in state ", to_string(state_.phase), ": ", why));
  }

  [[noreturn]] static void refuse_stage(const char* verb, const StageState& stage) {
    throw InvalidArgument(concat("stage '", stage.name, "' cannot ", verb, ": it is ", to_string(stage.status)));
  }

  StageState* find(const std::string& name, bool is_gate) {
    for (StageState& stage : state_.stages) {
      if (stage.name == name && stage.gate.has_value() == is_gate) return &stage;
    }
    return nullptr;
  }

  std::string names(bool gates) const {
    std::vector<std::string> list;
    for (const StageState& stage : state_.stages) {
      if (stage.gate.has_value() == gates) list.push_back(stage.name);
    }
    return list.empty() ? "none" : comma_separated(list);
  }

  StageState& stage_named(const std::string& name) {
    StageState* stage = find(name, false);
    if (stage == nullptr)
      throw InvalidArgument(concat("no stage '", name, "' in this pipeline; stages: ", names(false)));
    return *stage;
  }

  StageState& held_gate(const char* verb, const std::string& name) {
    StageState* gate = find(name, true);
    if (gate == nullptr)
      throw InvalidArgument(concat("cannot ", verb, " gate '", name, "': no such gate; gates: ", names(true)));
    if (gate->gate_status != GateStatus::kHeld || is_terminal(state_.phase)) {
      throw InvalidArgument(concat("cannot ", verb, " gate '", name, "': it does not hold the pipeline (gate ",
                                   to_string(gate->gate_status), ", pipeline ", to_string(state_.phase), ")"));
    }
    return *gate;
  }

  bool needs_are_done(const StageState& stage) {
    return std::all_of(stage.needs.begin(), stage.needs.end(), [&](const std::string& need) {
      const StageState* source = find(need, false);
      return source != nullptr && is_done(*source);
    });
  }

  void judge(StageState& gate) {
    std::map<std::string, Metrics> metrics;
    for (const StageState& stage : state_.stages) {
      if (!stage.gate) metrics[stage.name] = stage.metrics;
    }
    const GateVerdict verdict = evaluate_gate(*gate.gate, metrics);
    gate.message = verdict.message;
    switch (verdict.outcome) {
      case GateOutcome::kPass:
      case GateOutcome::kWarn:
        gate.gate_status = verdict.outcome == GateOutcome::kPass ? GateStatus::kPassed : GateStatus::kWarned;
        actions_.push_back(GateNote{gate.name, gate.gate_status, gate.message});
        break;
      case GateOutcome::kHold:
        gate.gate_status = GateStatus::kHeld;
        state_.phase = PipelinePhase::kHeld;
        actions_.push_back(Hold{gate.name, gate.message});
        break;
      case GateOutcome::kFail:
        gate.gate_status = GateStatus::kFailed;
        finish(PipelinePhase::kFailed, gate.message);
        break;
    }
  }

  void finish(PipelinePhase phase, std::string reason) {
    state_.phase = phase;
    state_.reason = std::move(reason);
    actions_.push_back(Finish{phase, state_.reason});
  }

  PipelineState& state_;
  std::vector<Action> actions_;
};

// The stage in "<stage>.model" or "<stage>.<metric>", if it is one of the pipeline's.
void add_need(const std::string& reference, const PipelineState& state, std::vector<std::string>& needs) {
  if (reference.find('/') != std::string::npos) return;
  const std::string name = reference.substr(0, reference.find('.'));
  for (const StageState& stage : state.stages) {
    if (stage.name == name && name != reference) needs.push_back(name);
  }
}

}  // namespace

PipelineState make_pipeline_state(const v1::PipelineSpec& spec) {
  PipelineState state;
  for (const v1::Stage& stage : spec.stages()) {
    StageState entry;
    entry.name = stage_name(stage);
    for (const std::string& reference : model_references(stage)) add_need(reference, state, entry.needs);
    if (stage.has_gate()) {
      entry.gate = stage.gate();
      add_need(stage.gate().metric(), state, entry.needs);
    }
    state.stages.push_back(std::move(entry));
  }
  return state;
}

std::vector<Action> advance(PipelineState& state, const Event& event) {
  // Handlers throw before they change anything.
  Engine engine(state);
  std::visit([&](const auto& e) { engine.handle(e); }, event);
  engine.schedule();
  return engine.take_actions();
}

bool is_terminal(PipelinePhase phase) {
  return phase == PipelinePhase::kSucceeded || phase == PipelinePhase::kFailed || phase == PipelinePhase::kCanceled;
}

const char* to_string(PipelinePhase phase) {
  switch (phase) {
    case PipelinePhase::kRunning: return "RUNNING";
    case PipelinePhase::kHeld: return "HELD";
    case PipelinePhase::kPaused: return "PAUSED";
    case PipelinePhase::kSucceeded: return "SUCCEEDED";
    case PipelinePhase::kFailed: return "FAILED";
    case PipelinePhase::kCanceled: return "CANCELED";
  }
  return "";
}

const char* to_string(StageStatus status) {
  switch (status) {
    case StageStatus::kPending: return "PENDING";
    case StageStatus::kReady: return "READY";
    case StageStatus::kRunning: return "RUNNING";
    case StageStatus::kSucceeded: return "SUCCEEDED";
    case StageStatus::kFailed: return "FAILED";
    case StageStatus::kSkipped: return "SKIPPED";
  }
  return "";
}

const char* to_string(GateStatus status) {
  switch (status) {
    case GateStatus::kPending: return "PENDING";
    case GateStatus::kPassed: return "PASSED";
    case GateStatus::kWarned: return "WARNED";
    case GateStatus::kHeld: return "HELD";
    case GateStatus::kApproved: return "APPROVED";
    case GateStatus::kFailed: return "FAILED";
  }
  return "";
}

}  // namespace moe
