#include "pipeline/kinds/convert_shared_gate.h"

#include <algorithm>

#include "common/error.h"

namespace moe {

void fill_shared_gate(v1::FfnExpertsSpec& ffn) {
  if (!ffn.has_shared_gate()) ffn.set_shared_gate("none");
  if (ffn.has_shared_gate_scale()) return;
  if (ffn.shared_gate() == "softmax") ffn.set_shared_gate_scale(std::max(1, ffn.shared_experts()));
  if (ffn.shared_gate() == "sigmoid") ffn.set_shared_gate_scale(2);
}

void check_shared_gate(const v1::FfnExpertsSpec& ffn, const FieldChecks& checks) {
  const std::string& gate = ffn.shared_gate();
  checks.choice("ffn.shared_gate", ffn.has_shared_gate(), gate, {"none", "softmax", "sigmoid"});
  checks.positive("ffn.shared_gate_scale", ffn.has_shared_gate_scale(), ffn.shared_gate_scale());
  const auto shared = ffn.options().find("shared");
  const bool shares_by_layer = shared != ffn.options().end() && shared->second == "adaptive";  // of weave
  if (gate == "none" && ffn.has_shared_gate_scale()) {
    checks.add("ffn.shared_gate_scale", concat("has no effect (", ffn.shared_gate_scale(),
                                               ") with ffn.shared_gate 'none'; set ffn.shared_gate or remove it"));
  } else if (gate == "softmax" && ffn.shared_experts() < 2) {
    checks.add("ffn.shared_gate", concat("softmax weighs shared experts against each other, and ffn.shared_experts is ",
                                         ffn.shared_experts(), "; use 2 or more, or sigmoid"));
  } else if (gate == "sigmoid" && ffn.shared_experts() < 1 && !shares_by_layer) {
    checks.add("ffn.shared_gate",
               "has no effect (sigmoid) with ffn.shared_experts 0; set ffn.shared_experts or remove it");
  }
}

}  // namespace moe
