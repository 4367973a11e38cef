#pragma once

#include <google/protobuf/descriptor.h>

#include <map>
#include <string>

namespace moe {

/// What a changed value means for work that is done already: each field of the schema is in exactly one of these
/// classes.
enum class FieldEffect {
  kResult,       ///< what is computed: nothing made with another value counts
  kContents,     ///< names a file or a model: what that holds is kResult, how it is spelt and where it lies is nothing
  kMeasure,      ///< what is reported beside the result: a killed training goes on, a finished stage is measured again
  kMore,         ///< more of it continues what is there (the steps of a training); less of it is kResult
  kLayout,       ///< ranks and devices: goes on, within the equality that docs/resume.md states
  kBookkeeping,  ///< how often to save, names: goes on, with the same bits
};

/// One field that differs. `effect` is never kContents: another content is kResult, or the class of what it is in.
struct FieldChange {
  std::string path;  ///< "train.data.0.path"
  std::string text;  ///< "train.learning_rate was 0.0002 and is 0.001"
  FieldEffect effect;
};

/// THE table: "Message.field" -> class, of what stands around jobs and of every job kind's own row (kinds/kinds.h). A
/// field that holds messages stands in it only if its class holds for all inside. "section.field.field", as a file
/// spells it below a stage, wins over the field's own row. A test walks the schema and finds every field that has no
/// row, and every row that has no field.
const std::map<std::string, FieldEffect>& field_effects();

/// The class of a field at a path without indices ("train.data.domain"); one without a row is kResult.
FieldEffect effect_of(const std::string& path, const google::protobuf::FieldDescriptor& field);

}  // namespace moe
