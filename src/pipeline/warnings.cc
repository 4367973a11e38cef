#include "pipeline/warnings.h"

#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

/// The stage whose model a stage works on, the one whose model that one does, and so on.
std::vector<v1::Stage> origins_of(const v1::PipelineSpec& spec, const v1::Stage& stage) {
  std::vector<v1::Stage> origins;
  const v1::Stage* at = &stage;
  while (at != nullptr && static_cast<int>(origins.size()) < spec.stages_size()) {
    const std::vector<std::string> models = model_references(*at);
    at = nullptr;
    for (const v1::Stage& earlier : spec.stages()) {
      if (models.empty() || models.front() != stage_name(earlier) + ".model") continue;
      origins.push_back(earlier);
      at = &earlier;
      break;
    }
  }
  return origins;
}

}  // namespace

std::vector<std::string> warnings_of(const v1::PipelineSpec& effective) {
  std::vector<std::string> warnings;
  for (const v1::Stage& stage : effective.stages()) {
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr) continue;
    std::vector<std::string> found;
    if (kind->warnings) found = kind->warnings(stage);
    if (kind->origin_warnings) {
      for (std::string& warning : kind->origin_warnings(stage, origins_of(effective, stage)))
        found.push_back(std::move(warning));
    }
    for (const std::string& warning : found) warnings.push_back(concat("stage ", stage_name(stage), ": ", warning));
  }
  return warnings;
}

}  // namespace moe
