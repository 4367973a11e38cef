#include "cli/spec_check.h"

#include <algorithm>
#include <filesystem>

#include "cli/elastic_table.h"
#include "cli/format.h"
#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/paths.h"
#include "pipeline/validate.h"
#include "report/text.h"

namespace moe {
namespace {

bool has(const Problems& problems, const v1::SpecProblem& problem) {
  return std::any_of(problems.begin(), problems.end(), [&](const Problem& other) {
    return other.path == problem.path() && other.message == problem.message();
  });
}

std::string work_text(const v1::Stage& stage) {
  if (stage.has_gate()) {
    return concat(stage.gate().metric(), " ", stage.gate().op(), " ", short_number(stage.gate().value()), ", else ",
                  stage.gate().on_fail());
  }
  const JobKind* kind = kind_of(stage);
  return kind == nullptr ? "" : kind->plan(stage);
}

std::string input_text(const v1::Stage& stage) {
  const std::vector<std::string> models = model_references(stage);
  return models.empty() ? "" : models.front();
}

}  // namespace

SubmittedFile read_submitted_file(const std::string& file, const std::vector<std::string>& assignments) {
  SubmittedFile submitted{load_pipeline(read_file(file), file, assignments, {}), {}};
  v1::PipelineSpec& spec = submitted.loaded.spec;
  // Workers have working directories of their own.
  visit_paths(spec, [&](std::string& path) {
    path = std::filesystem::absolute(path).lexically_normal().string();
    if (is_utf8(path)) return;
    submitted.loaded.problems.push_back(
        {file, "",
         concat("the path ", excerpt(path), " is not UTF-8; rename the working directory, or write an absolute path")});
    path = printable(path);
  });
  check_top_level(spec, submitted.loaded.sources, submitted.expected);
  check_stages(spec, submitted.loaded.sources, {}, submitted.expected);
  return submitted;
}

Problems merged_problems(const SubmittedFile& file, const v1::SubmitResponse& answer) {
  Problems problems = file.loaded.problems;
  for (const v1::SpecProblem& found : answer.problems()) {
    if (has(problems, found) || has(file.expected, found)) continue;
    problems.push_back({file.loaded.sources.where(found.path()), found.path(), found.message()});
  }
  return problems;
}

std::string plan_text(const v1::PipelineSpec& effective, int width) {
  ElasticTable table({{"STAGE"}, {"KIND"}, {"RANKS", TextTable::Align::kNumber}, {"DEVICE"}, {"INPUT"}, {"WORK"}});
  for (const v1::Stage& stage : effective.stages()) {
    const bool is_gate = stage.has_gate();
    table.add_row({stage_name(stage), kind_text(stage),
                   is_gate                    ? ""
                   : stage.gang().ranks() > 0 ? std::to_string(stage.gang().ranks())
                                              : "any",
                   is_gate ? "" : stage.gang().device(), input_text(stage), work_text(stage)});
  }
  return table.render(width);
}

}  // namespace moe
