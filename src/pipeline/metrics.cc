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

/// A stage's message with its defaults filled in.
class FilledMessage {
 public:
  explicit FilledMessage(const v1::Stage& stage) : stage_(stage) {
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr) return;
    kind->fill(stage_);
    message_ =
        &stage_.GetReflection()->GetMessage(stage_, v1::Stage::descriptor()->FindFieldByName(stage_kind(stage_)));
  }

  /// What it lists as tasks (JobKind::tasks); empty: all that there are.
  std::vector<std::string> tasks() const {
    if (message_ == nullptr || kind_of(stage_)->tasks.empty()) return {};
    const auto* field = field_named(kind_of(stage_)->tasks);
    std::vector<std::string> tasks;
    for (int i = 0; i < message_->GetReflection()->FieldSize(*message_, field); ++i)
      tasks.push_back(message_->GetReflection()->GetRepeatedString(*message_, field, i));
    return tasks;
  }
  bool has(const std::string& section) const {
    const auto* field = field_named(section);
    return field != nullptr && message_->GetReflection()->HasField(*message_, field);
  }

 private:
  const google::protobuf::FieldDescriptor* field_named(const std::string& name) const {
    return message_ == nullptr ? nullptr : message_->GetDescriptor()->FindFieldByName(name);
  }

  v1::Stage stage_;
  const google::protobuf::Message* message_ = nullptr;
};

}  // namespace

std::vector<std::string> metrics_of(const v1::Stage& stage) {
  const std::string kind = stage_kind(stage);
  const std::vector<StageInput> inputs = inputs_of(stage);
  const FilledMessage message(stage);
  const std::vector<std::string> tasks = message.tasks();
  std::vector<std::string> names, by_domain;
  for (const Measure& measure : result_measures(kind)) {
    if (!measure.task.empty() && !tasks.empty() && std::find(tasks.begin(), tasks.end(), measure.task) == tasks.end())
      continue;
    if (!measure.section.empty() && !message.has(measure.section)) continue;
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
