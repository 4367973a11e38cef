#pragma once

#include <map>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

namespace moe {

/// What a stage measured: name, without the stage's, -> value.
using Metrics = std::map<std::string, double>;

/// What became of a gate.
enum class GateOutcome { kPass, kHold, kFail, kWarn };

struct GateVerdict {
  GateOutcome outcome = GateOutcome::kPass;
  /// One sentence with the value, the threshold and, if nobody is asked, what follows. It stays with the gate, also
  /// when a person has decided: how to decide is told by who asks for it.
  std::string message;
};

/// The operators of a gate: < <= > >= ==.
const std::vector<std::string>& gate_operators();

/// Compares the metric with the gate's number. A metric that is missing or NaN fails. `metrics` maps a stage to what it
/// measured.
GateVerdict evaluate_gate(const v1::GateSpec& gate, const std::map<std::string, Metrics>& metrics);

}  // namespace moe
