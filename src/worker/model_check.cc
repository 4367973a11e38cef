#include "worker/model_check.h"

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "common/error.h"
#include "convert/request_check.h"
#include "export/export_plan.h"
#include "pipeline/spec.h"
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
      outputs_.insert(stage_name(stage) + ".model");
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
  std::set<std::string> outputs_;                             ///< "<stage>.model" of the stages before
  std::map<std::string, std::optional<OpenedModel>> models_;  ///< by path
};

}  // namespace

Problems model_problems(const v1::PipelineSpec& effective, const SourceMap& sources) {
  return Checker(effective, sources).take();
}

}  // namespace moe
