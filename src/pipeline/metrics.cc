#include "pipeline/metrics.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>

#include "common/measures.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

/// Whether an input stands in this field of the stage's message, or in the list that it is.
bool is_in(const StageInput& input, const std::string& field) {
  return input.field == field || input.field.starts_with(field + ".");
}

/// What the `tasks` of its message list, its defaults filled in; none where a kind has no tasks.
std::vector<std::string> tasks_of(const v1::Stage& stage) {
  const JobKind* kind = kind_of(stage);
  if (kind == nullptr) return {};
  v1::Stage filled = stage;
  kind->fill(filled);
  const auto* section = v1::Stage::descriptor()->FindFieldByName(stage_kind(filled));
  const google::protobuf::Message& message = filled.GetReflection()->GetMessage(filled, section);
  const auto* field = message.GetDescriptor()->FindFieldByName("tasks");
  std::vector<std::string> tasks;
  for (int i = 0; field != nullptr && i < message.GetReflection()->FieldSize(message, field); ++i)
    tasks.push_back(message.GetReflection()->GetRepeatedString(message, field, i));
  return tasks;
}

}  // namespace

std::vector<std::string> metrics_of(const v1::Stage& stage) {
  const std::string kind = stage_kind(stage);
  const std::vector<StageInput> inputs = inputs_of(stage);
  const std::vector<std::string> tasks = tasks_of(stage);
  std::vector<std::string> names, by_domain;
  for (const Measure& measure : result_measures(kind)) {
    if (!measure.task.empty() && std::find(tasks.begin(), tasks.end(), measure.task) == tasks.end()) continue;
    const std::string needed = join_path(kind, measure.needs), domains = join_path(kind, measure.domains);
    const auto is_needed = [&](const StageInput& input) { return is_in(input, needed); };
    if (!measure.needs.empty() && std::none_of(inputs.begin(), inputs.end(), is_needed)) continue;
    if (measure.has_whole) names.push_back(measure.name);
    if (measure.domains.empty()) continue;
    for (const StageInput& input : inputs) {
      if (is_in(input, domains)) by_domain.push_back(measure.name + "." + input.domain);
    }
  }
  names.insert(names.end(), by_domain.begin(), by_domain.end());
  return names;
}

}  // namespace moe
