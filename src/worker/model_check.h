#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/field_checks.h"
#include "pipeline/problem.h"
#include "runtime/opened_model.h"

namespace moe {

/// The models of a pipeline before its first stage, as far as they are there: each is opened once, its weights mapped
/// and not read. One that cannot be opened is left to whoever reads it. A stage sees the outputs of those before it.
class PipelineModels {
 public:
  explicit PipelineModels(const v1::PipelineSpec& spec) : spec_(spec) {}

  /// nullptr, here and below: not there yet, or none that can be opened.
  const OpenedModel* model(const std::string& reference);
  /// Those that are there.
  std::vector<const OpenedModel*> models(const std::vector<std::string>& references);
  /// What it was before trainings, which change weights and no structure: itself where none made it.
  const OpenedModel* before_training(std::string reference);
  /// What all stages that make it began with; itself where none does.
  const OpenedModel* at_beginning(std::string reference);

  /// Later stages may read what this one makes.
  void add_output(const v1::Stage& stage);

 private:
  const v1::PipelineSpec& spec_;
  std::map<std::string, std::string> outputs_;                ///< "<stage>.model" -> what it is made of
  std::map<std::string, std::string> trained_;                ///< those of them that trainings make
  std::map<std::string, std::optional<OpenedModel>> opened_;  ///< by path
};

/// Adds what a stage asks of its models and they cannot do: of one that is not there yet, what is known nevertheless.
/// One for each kind (JobRunner); `checks` are at the section of its message.
using ModelCheck = void (*)(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks);

/// What a pipeline asks of the models that are there before its first stage and cannot be: each stage is held against
/// them as when it starts, so that the last of many is not found wrong after all others have run. What depends on what
/// an earlier stage makes is checked when the stage starts. `effective`: all defaults filled in.
Problems model_problems(const v1::PipelineSpec& effective, const SourceMap& sources);

}  // namespace moe
