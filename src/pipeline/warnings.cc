#include "pipeline/warnings.h"

#include "common/error.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {

std::vector<std::string> warnings_of(const v1::PipelineSpec& effective) {
  std::vector<std::string> warnings;
  for (const v1::Stage& stage : effective.stages()) {
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr || !kind->warnings) continue;
    for (const std::string& warning : kind->warnings(stage))
      warnings.push_back(concat("stage ", stage_name(stage), ": ", warning));
  }
  return warnings;
}

}  // namespace moe
