#include <algorithm>

#include "common/error.h"
#include "pipeline/defaults.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/problem.h"

/// analyze: what stands in a model and what its routers do with text.
namespace moe {
namespace {

v1::AnalyzeSpec filled_analyze(const v1::AnalyzeSpec& analyze) {
  v1::AnalyzeSpec filled = analyze;
  fill_sources(*filled.mutable_data());
  if (!filled.has_max_tokens()) filled.set_max_tokens(16384);
  if (!filled.has_append_eos()) filled.set_append_eos(true);
  if (!filled.has_routers()) filled.set_routers("trained");
  return filled;
}

void check_analyze(const v1::Stage& stage, const FieldChecks& checks) {
  const v1::AnalyzeSpec& analyze = stage.analyze();
  const std::vector<std::string> of_text = checks.known_names("text_analyses");
  for (int i = 0; i < analyze.analyses_size(); ++i) {
    const std::string &name = analyze.analyses(i), field = concat("analyses.", i);
    checks.known(field, name, "analyses");
    if (std::count(analyze.analyses().begin(), analyze.analyses().begin() + i, name) > 0)
      checks.add(field, concat(name, " stands twice; remove one"));
    if (analyze.data().empty() && std::find(of_text.begin(), of_text.end(), name) != of_text.end())
      checks.add(field, concat(name, " looks at text; list at least one JSONL file: data: [{path: FILE.jsonl}]"));
  }
  checks.sources("data", analyze.data(), true);
  checks.at_least("sequence_length", analyze.has_sequence_length(), analyze.sequence_length(), 2);
  checks.at_least<int64_t>("max_tokens", analyze.has_max_tokens(), analyze.max_tokens(), 1);
  checks.known("template", analyze.template_(), "templates");
  checks.choice("routers", analyze.has_routers(), analyze.routers(), {"trained", "fresh"});
  const auto is_of_text = [&](const std::string& name) {
    return std::find(of_text.begin(), of_text.end(), name) != of_text.end();
  };
  const bool reads_text =
      !analyze.data().empty() && (analyze.analyses().empty() || of_text.empty() ||
                                  std::any_of(analyze.analyses().begin(), analyze.analyses().end(), is_of_text));
  if (analyze.routers() == "fresh" && !reads_text)
    checks.add("routers", "fresh routers route text, and no analysis looks at text; list data, or leave routers out");
}

std::string analyze_plan(const v1::Stage& stage) {
  const v1::AnalyzeSpec& spec = stage.analyze();
  std::string plan = comma_separated({spec.analyses().begin(), spec.analyses().end()});
  if (plan.empty()) plan = spec.data().empty() ? "all that need no text" : "all";
  if (!spec.data().empty()) plan += concat(" on ", spec.data_size(), " files");
  if (spec.routers() == "fresh") plan += ", routers drawn anew";
  if (spec.has_baseline()) plan += concat(", beside ", spec.baseline());
  return plan;
}

}  // namespace

JobKind analyze_kind() {
  using enum FieldEffect;
  return {
      .leaves = Artifact::kReport,
      .models = {"input", "baseline"},
      .data = {"data"},
      .tasks = "analyses",
      .effects = {{"AnalyzeSpec.input", kContents},
                  {"AnalyzeSpec.baseline", kContents},
                  {"AnalyzeSpec.analyses", kResult},
                  {"AnalyzeSpec.sequence_length", kResult},
                  {"AnalyzeSpec.max_tokens", kResult},
                  {"AnalyzeSpec.template", kResult},
                  {"AnalyzeSpec.append_eos", kResult},
                  {"AnalyzeSpec.routers", kResult}},
      .fill = [](v1::Stage& stage) { *stage.mutable_analyze() = filled_analyze(stage.analyze()); },
      .check = check_analyze,
      .plan = analyze_plan,
      // A few numbers a tensor and an expert.
      .room = 0.01,
  };
}

}  // namespace moe
