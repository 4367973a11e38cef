#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/pending_directory.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/measures.h"
#include "eval/analyses.h"
#include "eval/analyzer.h"
#include "model/model_config.h"
#include "pipeline/problem.h"
#include "report/analysis_page.h"
#include "report/text.h"
#include "worker/jobs.h"
#include "worker/row_length_check.h"

namespace moe {
namespace {

using nlohmann::json;

std::string model_fact(const std::filesystem::path& path) {
  const ModelConfig config = ModelDirectory(path).config();
  const ParameterCount parameters = count_parameters(config);
  std::string fact =
      concat(path.string(), " – ", count_text(parameters.total), " parameters, ", config.num_layers, " layers");
  if (config.moe && config.moe->num_experts > 0)
    fact += concat(", ", config.moe->num_experts, " experts, top-", config.moe->top_k);
  return fact;
}

std::string text_fact(const v1::AnalyzeSpec& spec) {
  std::vector<std::string> files;
  for (const v1::DataSource& source : spec.data()) files.push_back(concat(source.domain(), " (", source.path(), ")"));
  return concat(comma_separated(files), ", up to ", spec.max_tokens(), " tokens each");
}

/// What an analysis says of the model, and of the baseline where it looked at that too.
AnalysisSection section_of(const std::string& name, const json& result) {
  const Analysis& analysis = analyses().at(name);
  AnalysisSection section{.name = name,
                          .title = analysis.title,
                          .summary = analysis.summary,
                          .numbers = {},
                          .figures = analysis.figures(result["analyses"][name])};
  for (const auto& [metric, value] : analysis.metrics(result["analyses"][name])) {
    std::string words = metric;
    std::replace(words.begin(), words.end(), '_', ' ');
    section.numbers.emplace_back(words, short_number(value));
  }
  if (result.contains("baseline") && result["baseline"]["analyses"].contains(name))
    section.of_baseline = analysis.figures(result["baseline"]["analyses"][name]);
  return section;
}

AnalysisPage page_of(const std::string& stage, const AnalyzeRequest& request, const json& result) {
  AnalysisPage page{.title = concat("Analysis: ", stage), .facts = {}, .sections = {}};
  page.facts.emplace_back("model", model_fact(request.model));
  if (result.contains("routers"))
    page.facts.emplace_back("routers", concat("drawn anew, of seed ", request.seed,
                                              request.baseline ? "; those of the baseline are its own" : ""));
  if (request.baseline) page.facts.emplace_back("baseline", model_fact(*request.baseline));
  if (!request.spec.data().empty()) page.facts.emplace_back("text", text_fact(request.spec));
  // In the order of the list, not of their names.
  for (const std::string& name : analyses().names()) {
    if (result["analyses"].contains(name)) page.sections.push_back(section_of(name, result));
  }
  for (const auto& [name, reason] : result["passed_over"].items()) page.passed_over.emplace_back(name, reason);
  return page;
}

void write_analysis(const std::filesystem::path& path, const AnalysisPage& page, const json& result) {
  PendingDirectory output(path);
  write_file_atomically(output.folder() / "analysis.json", result.dump(1) + "\n");
  write_file_atomically(output.folder() / "analysis.html", render_analysis_page(page));
  std::filesystem::create_directories(output.folder() / "figures");
  for (const auto& [name, drawing] : analysis_drawings(page))
    write_file_atomically(output.folder() / "figures" / name, drawing);
  output.commit();
}

std::optional<JobOutcome> run_analyze_job(const JobContext& context) {
  const v1::AnalyzeSpec& spec = context.stage.analyze();
  const AnalyzeRequest request{
      .spec = spec,
      .gang = context.stage.gang(),
      .model = context.model_path(spec.input()),
      .baseline = spec.has_baseline() ? std::optional(context.model_path(spec.baseline())) : std::nullopt,
      .monitor = context.monitor,
      .seed = context.stage.seed()};
  json result = analyze(request, context.world);
  JobOutcome outcome;
  for (const auto& [name, of_model] : result["analyses"].items())
    outcome.metrics.merge(analyses().at(name).metrics(of_model));
  result["metrics"] = outcome.metrics;
  agree(context.world, "write analysis", [&] {
    if (context.world.rank() == 0)
      write_analysis(context.output_path, page_of(context.stage.name(), request, result), result);
  });
  return outcome;
}

void check_analyze_models(const v1::Stage& stage, PipelineModels& models, const FieldChecks& checks) {
  check_row_length(stage, stage.analyze().sequence_length(), models, checks);
}

}  // namespace

JobRunner analyze_runner() {
  return {.run = run_analyze_job, .check_models = check_analyze_models};
}

}  // namespace moe
