#include "worker/model_check.h"

#include <string_view>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"
#include "worker/jobs.h"

namespace moe {
namespace {

/// A problem has its field in front of it, and needs no "convert: ".
std::string without_section(std::string message, std::string_view section) {
  const std::string prefix = concat(section, ": ");
  return message.rfind(prefix, 0) == 0 ? message.substr(prefix.size()) : message;
}

}  // namespace

const OpenedModel* PipelineModels::model(const std::string& reference) {
  if (outputs_.contains(reference)) return nullptr;
  const auto input = spec_.inputs().find(reference);
  const std::string path = input == spec_.inputs().end() ? reference : input->second.path();
  const auto [opened, is_new] = opened_.try_emplace(path);
  if (is_new) {
    try {
      opened->second.emplace(open_model(path, {.tokenizer = TextNeeds::TokenizerFile::kIfThere}));
    } catch (const Error&) {  // NOLINT(bugprone-empty-catch): told where the pipeline's files are read
    }
  }
  return opened->second ? &*opened->second : nullptr;
}

std::vector<const OpenedModel*> PipelineModels::models(const std::vector<std::string>& references) {
  std::vector<const OpenedModel*> there;
  for (const std::string& other : references) {
    if (const OpenedModel* const opened = model(other); opened != nullptr) there.push_back(opened);
  }
  return there;
}

const OpenedModel* PipelineModels::before_training(std::string reference) {
  while (trained_.contains(reference)) reference = trained_.at(reference);
  return model(reference);
}

const OpenedModel* PipelineModels::at_beginning(std::string reference) {
  while (outputs_.contains(reference)) reference = outputs_.at(reference);
  return model(reference);
}

void PipelineModels::add_output(const v1::Stage& stage) {
  const std::vector<std::string> read = model_references(stage);
  const std::string output = stage_name(stage) + ".model", input = read.empty() ? "" : read.front();
  outputs_[output] = input;
  const JobKind* const kind = kind_of(stage);
  if (kind != nullptr && kind->leaves == Artifact::kTrainedModel) trained_[output] = input;
}

Problems model_problems(const v1::PipelineSpec& effective, const SourceMap& sources) {
  PipelineModels models(effective);
  Problems problems;
  const KnownNames known;  // no check asks for names here
  for (const v1::Stage& stage : effective.stages()) {
    const std::string kind = stage_kind(stage);
    const std::string section = effective.kind() == "Job" ? kind : concat("stages.", stage_name(stage), ".", kind);
    Problems found;
    ProblemSink sink(sources, found);
    if (job_runners().contains(kind)) job_runners().at(kind).check_models(stage, models, {section, known, sink});
    for (const Problem& problem : found)
      problems.push_back({problem.where, problem.path, without_section(problem.message, kind)});
    models.add_output(stage);
  }
  return problems;
}

}  // namespace moe
