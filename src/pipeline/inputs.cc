#include "pipeline/inputs.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>

#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Visit = std::function<void(StageInput& input)>;

/// One model, or a list of them.
void visit_models(Message& message, const FieldDescriptor& field, const std::string& path, const Visit& visit) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  if (field.is_repeated()) {
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      StageInput input{concat(path, ".", i), reflection.GetRepeatedString(message, &field, i), true};
      visit(input);
      reflection.SetRepeatedString(&message, &field, i, input.value);
    }
    return;
  }
  if (field.has_presence() && !reflection.HasField(message, &field)) return;
  const std::string before = reflection.GetString(message, &field);
  StageInput input{path, before, true};
  visit(input);
  if (input.value != before) reflection.SetString(&message, &field, input.value);
}

void visit_source(v1::DataSource& source, const std::string& path, const Visit& visit) {
  StageInput input{join_path(path, "path"), source.path(), false, domain_of(source)};
  visit(input);
  source.set_path(input.value);
}

/// A field of a row, below `message`. A section on the way that is not there names nothing, and is not made.
void visit_field(Message& message, const std::string& field_path, const std::string& path, bool is_model,
                 const Visit& visit) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const size_t dot = field_path.find('.');
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(field_path.substr(0, dot));
  MOE_CHECK(field != nullptr, concat(message.GetTypeName(), " has no field ", field_path));
  const std::string here = join_path(path, field->name());
  if (dot != std::string::npos) {
    if (!reflection.HasField(message, field)) return;
    return visit_field(*reflection.MutableMessage(&message, field), field_path.substr(dot + 1), here, is_model, visit);
  }
  if (is_model) return visit_models(message, *field, here, visit);
  for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
    Message& source = *reflection.MutableRepeatedMessage(&message, field, i);
    visit_source(dynamic_cast<v1::DataSource&>(source), concat(here, ".", i), visit);
  }
}

}  // namespace

void visit_inputs(v1::Stage& stage, const Visit& visit) {
  const JobKind* kind = kind_of(stage);
  if (kind == nullptr) return;
  const std::string section = stage_kind(stage);
  for (const std::string& field : kind->models) visit_field(stage, join_path(section, field), "", true, visit);
  for (const std::string& field : kind->data) visit_field(stage, join_path(section, field), "", false, visit);
}

std::vector<StageInput> inputs_of(const v1::Stage& stage) {
  std::vector<StageInput> inputs;
  v1::Stage copy = stage;
  visit_inputs(copy, [&](const StageInput& input) { inputs.push_back(input); });
  return inputs;
}

std::vector<std::string> evaluation_files(const v1::PipelineSpec& spec) {
  std::vector<std::string> files;
  for (v1::Stage stage : spec.stages()) {
    const JobKind* kind = kind_of(stage);
    if (kind == nullptr) continue;
    const std::string section = stage_kind(stage);
    for (const std::string& field : kind->measured_data) {
      visit_field(stage, join_path(section, field), "", false, [&](const StageInput& input) {
        if (std::find(files.begin(), files.end(), input.value) == files.end()) files.push_back(input.value);
      });
    }
  }
  return files;
}

std::vector<std::string> model_references(const v1::Stage& stage) {
  std::vector<std::string> references;
  for (const StageInput& input : inputs_of(stage)) {
    if (input.is_model) references.push_back(input.value);
  }
  return references;
}

}  // namespace moe
