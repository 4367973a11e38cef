#include "worker/model_check.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"
#include "convert/request_check.h"
#include "export/export_plan.h"
#include "pipeline/inputs.h"
#include "pipeline/spec.h"
#include "runtime/model_settings.h"
#include "runtime/opened_model.h"

namespace moe {
namespace {

/// A problem has its field in front of it, and needs no "convert: ".
std::string without_section(std::string message, std::string_view section) {
  const std::string prefix = concat(section, ": ");
  return message.rfind(prefix, 0) == 0 ? message.substr(prefix.size()) : message;
}

class Checker {
 public:
  Checker(const v1::PipelineSpec& spec, const SourceMap& sources) : spec_(spec), sources_(sources) {}

  Problems take() {
    for (const v1::Stage& stage : spec_.stages()) {
      if (stage.has_convert()) check_conversion(stage);
      if (stage.has_export_()) check_export(stage);
      if (stage.has_train()) check_rows(stage, stage.train().sequence_length());
      if (stage.has_evaluate()) check_rows(stage, stage.evaluate().sequence_length());
      if (stage.has_analyze()) check_rows(stage, stage.analyze().sequence_length());
      const std::vector<std::string> read = model_references(stage);
      outputs_[stage_name(stage) + ".model"] = read.empty() ? "" : read.front();
    }
    return std::move(problems_);
  }

 private:
  void check_conversion(const v1::Stage& stage) {
    const v1::ConvertSpec& spec = stage.convert();
    const OpenedModel* const source = model(spec.input());
    if (source == nullptr) return;
    ConvertRequest request{
        .spec = spec, .source = source->directory, .text = source->text, .output = {}, .monitor = unwatched()};
    for (const std::string& other : spec.ffn().others()) {
      if (const OpenedModel* const opened = model(other); opened != nullptr)
        request.others.push_back(&opened->directory);
    }
    for (const RequestProblem& problem : request_problems(request)) add(stage, problem.field, problem.message);
  }

  void check_export(const v1::Stage& stage) {
    const OpenedModel* const source = model(stage.export_().input());
    if (source == nullptr) return;
    try {
      plan_export(source->directory, stage.export_());
    } catch (const InvalidArgument& error) {
      add(stage, "format", error.what());
    }
  }

  /// A model allows rows as long as the one does that it was made of.
  void check_rows(const v1::Stage& stage, int64_t length) {
    for (std::string reference : model_references(stage)) {
      while (outputs_.contains(reference)) reference = outputs_.at(reference);
      const OpenedModel* const opened = model(reference);
      if (opened == nullptr) continue;
      try {
        sequence_length_for(opened->directory.config(), length);
      } catch (const InvalidArgument& error) {
        add(stage, "sequence_length", concat(error.what(), " (", opened->directory.path().string(), ")"));
        return;  // one of them is enough
      }
    }
  }

  void add(const v1::Stage& stage, const std::string& field, const std::string& message) {
    const std::string kind = stage_kind(stage);
    std::string path = spec_.kind() == "Job" ? kind : concat("stages.", stage_name(stage), ".", kind);
    if (!field.empty()) path = join_path(path, field);
    problems_.push_back({sources_.where(path), path, without_section(message, kind)});
  }

  /// nullptr: not there yet, or none that can be opened.
  const OpenedModel* model(const std::string& reference) {
    if (outputs_.contains(reference)) return nullptr;
    const auto input = spec_.inputs().find(reference);
    const std::string path = input == spec_.inputs().end() ? reference : input->second.path();
    const auto [opened, is_new] = models_.try_emplace(path);
    if (is_new) {
      try {
        opened->second.emplace(open_model(path, {.tokenizer = TextNeeds::TokenizerFile::kIfThere}));
      } catch (const Error&) {  // NOLINT(bugprone-empty-catch): told where the pipeline's files are read
      }
    }
    return opened->second ? &*opened->second : nullptr;
  }

  const v1::PipelineSpec& spec_;
  const SourceMap& sources_;
  Problems problems_;
  std::map<std::string, std::string> outputs_;                ///< "<stage>.model" of those before -> what it is made of
  std::map<std::string, std::optional<OpenedModel>> models_;  ///< by path
};

}  // namespace

Problems model_problems(const v1::PipelineSpec& effective, const SourceMap& sources) {
  return Checker(effective, sources).take();
}

}  // namespace moe
