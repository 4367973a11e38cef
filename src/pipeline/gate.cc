#include "pipeline/gate.h"

#include <cmath>
#include <optional>

#include "common/error.h"

namespace moe {
namespace {

std::optional<double> look_up(const std::string& metric, const std::map<std::string, Metrics>& metrics) {
  const size_t dot = metric.find('.');
  if (dot == std::string::npos) return std::nullopt;
  const auto stage = metrics.find(metric.substr(0, dot));
  if (stage == metrics.end()) return std::nullopt;
  const auto value = stage->second.find(metric.substr(dot + 1));
  return value == stage->second.end() ? std::nullopt : std::optional(value->second);
}

bool holds(double value, const std::string& op, double threshold) {
  if (op == "<") return value < threshold;
  if (op == "<=") return value <= threshold;
  if (op == ">") return value > threshold;
  if (op == ">=") return value >= threshold;
  if (op == "==") return value == threshold;
  throw InvalidArgument(concat("unknown gate operator '", op, "'"));
}

}  // namespace

const std::vector<std::string>& gate_operators() {
  static const std::vector<std::string> operators{"<", "<=", ">", ">=", "=="};
  return operators;
}

GateVerdict evaluate_gate(const v1::GateSpec& gate, const std::map<std::string, Metrics>& metrics) {
  const std::optional<double> value = look_up(gate.metric(), metrics);
  std::string found;
  if (!value) {
    found = concat("gate '", gate.name(), "' fails: ", gate.metric(), " was not measured, wanted ", gate.op(), " ",
                   gate.value());
  } else if (std::isnan(*value)) {
    found = concat("gate '", gate.name(), "' fails: ", gate.metric(), " is not a number (NaN), wanted ", gate.op(), " ",
                   gate.value());
  } else if (holds(*value, gate.op(), gate.value())) {
    return {GateOutcome::kPass, concat("gate '", gate.name(), "' passes: ", gate.metric(), " is ", *value, ", wanted ",
                                       gate.op(), " ", gate.value())};
  } else {
    found = concat("gate '", gate.name(), "' fails: ", gate.metric(), " is ", *value, ", wanted ", gate.op(), " ",
                   gate.value());
  }
  if (gate.on_fail() == "WARN")
    return {GateOutcome::kWarn, concat(found, "; on_fail is WARN, so the pipeline goes on")};
  if (gate.on_fail() == "FAIL") return {GateOutcome::kFail, concat(found, "; on_fail is FAIL, so the pipeline ends")};
  return {GateOutcome::kHold, found};
}

}  // namespace moe
