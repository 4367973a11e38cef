#include "pipeline/paths.h"

#include "pipeline/inputs.h"

namespace moe {

void visit_paths(v1::PipelineSpec& spec, const std::function<void(std::string&)>& visit) {
  const auto visit_path = [&visit](std::string& path) {
    if (!path.empty()) visit(path);
  };
  for (auto& [name, input] : *spec.mutable_inputs()) visit_path(*input.mutable_path());
  for (v1::Stage& stage : *spec.mutable_stages()) {
    visit_inputs(stage, [&](StageInput& input) {
      const bool is_folder = input.value.find('/') != std::string::npos || input.value == "." || input.value == "..";
      if (!input.is_model || (is_folder && !spec.inputs().contains(input.value))) visit_path(input.value);
    });
  }
}

}  // namespace moe
