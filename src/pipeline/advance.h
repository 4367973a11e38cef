#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/gate.h"

/// The pipeline engine: a pure function from a state and an event to the next state and what to do. `moe-worker run`
/// drives it with files, the coordinator with its database; both keep the state and carry the actions out. No clock, no
/// I/O, no threads.
///
///                 Start                          last stage and gate done
///   (created) ------------> RUNNING ------------------------------------> SUCCEEDED
///                            |  ^ \   StageFailed(permanent), gate FAIL
///        gate fails with HOLD|  |  `----------------------------------->  FAILED
///                            v  | Approve                  ^
///                           HELD --------------------------'
///                            |          Reject
///   RUNNING, HELD -- Pause --> PAUSED -- Resume --> RUNNING or HELD
///   RUNNING, HELD, PAUSED, (created) -- Cancel --> CANCELED
///
/// A stage:  PENDING --(its inputs and all earlier gates are there)--> READY --StageStarted--> RUNNING --> SUCCEEDED |
/// FAILED
///           READY or RUNNING --StageSucceeded{already_done}--> SKIPPED
///           READY or RUNNING --StageFailed, not permanent--> PENDING, and it is started again
///           PENDING --StageFailed, permanent--> FAILED: somebody canceled it before its turn
///           FAILED --StageRetried--> READY; if other failures remain, the pipeline fails again when nothing runs any
///           more
/// A gate is judged once every earlier gate has let pass and the stage that it measures is done. Stages before a held
/// gate go on; stages behind it wait. While PAUSED nothing new starts and no gate is judged.
namespace moe {

enum class PipelinePhase { kRunning, kHeld, kPaused, kSucceeded, kFailed, kCanceled };
enum class StageStatus { kPending, kReady, kRunning, kSucceeded, kFailed, kSkipped };
/// kApproved: it failed and a person let it pass. kWarned: it failed and was told to go on.
enum class GateStatus { kPending, kPassed, kWarned, kHeld, kApproved, kFailed };

struct StageState {
  std::string name;
  /// Set for a gate; then `gate_status` counts, else `status`.
  std::optional<v1::GateSpec> gate;
  /// Stages whose models or numbers this one reads.
  std::vector<std::string> needs;
  StageStatus status = StageStatus::kPending;
  GateStatus gate_status = GateStatus::kPending;
  Metrics metrics;
  /// Why it failed, or what a gate found.
  std::string message;
};

struct PipelineState {
  std::vector<StageState> stages;
  PipelinePhase phase = PipelinePhase::kRunning;
  bool is_started = false;
  /// Why it ended as it did.
  std::string reason;
};

/// Events.
struct Start {};
struct StageStarted {
  std::string name;
};
struct StageSucceeded {
  std::string name;
  Metrics metrics;
  /// The output was there already and was not made again.
  bool already_done = false;
};
struct StageFailed {
  std::string name;
  std::string reason;
  /// Trying again would change nothing (or the caller's budget is spent).
  bool permanent = true;
};
/// A failed stage is to run again; the caller starts it. A failed pipeline goes on.
struct StageRetried {
  std::string name;
};
struct Approve {
  std::string gate;
};
struct Reject {
  std::string gate;
};
struct Cancel {};
struct Pause {};
struct Resume {};
using Event = std::variant<Start, StageStarted, StageSucceeded, StageFailed, StageRetried, Approve, Reject, Cancel,
                           Pause, Resume>;

/// Actions.
struct StartStage {
  std::string name;
};
/// A gate was judged and lets pass (it passed, or it warns): for the log.
struct GateNote {
  std::string gate;
  GateStatus status;
  std::string message;
};
struct Hold {
  std::string gate;
  std::string message;
};
struct Finish {
  PipelinePhase phase;
  std::string reason;
};
using Action = std::variant<StartStage, GateNote, Hold, Finish>;

/// The state before Start. Fails never: `spec` comes checked from load_pipeline and with defaults filled in.
PipelineState make_pipeline_state(const v1::PipelineSpec& spec);

/// Applies an event. Throws InvalidArgument, with the state untouched, if the event makes no sense now (approving a
/// gate that is not held, starting twice, an unknown stage); the message says why. After the end, a result of a stage
/// that was still running is kept and nothing follows from it.
std::vector<Action> advance(PipelineState& state, const Event& event);

bool is_terminal(PipelinePhase phase);
const char* to_string(PipelinePhase phase);
const char* to_string(StageStatus status);
const char* to_string(GateStatus status);

}  // namespace moe
