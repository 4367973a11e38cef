#include "report/run_summary.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "common/error.h"
#include "common/file_io.h"
#include "common/job_folder.h"
#include "common/json_lines.h"
#include "pipeline/defaults.h"
#include "pipeline/inputs.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"
#include "report/compared_conversions.h"
#include "report/comparison.h"
#include "report/measured_models.h"
#include "report/pipeline_report.h"
#include "report/status_sections.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using FolderOf = std::function<fs::path(const std::string&)>;

constexpr int kPlainWidth = 120;

int terminal_width() {
  winsize size{};
  if (isatty(STDOUT_FILENO) == 1 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kPlainWidth;
}

/// NaN where it is null, which numbers become that are not finite.
double number_or_nan(const json& value) {
  return value.is_number() ? value.get<double>() : std::nan("");
}

std::vector<LossPoint> loss_curve(const json& details) {
  std::map<int64_t, double> validation;
  for (const json& point : details.value("validation", json::array())) validation[point["step"]] = point["loss"];
  std::vector<LossPoint> curve;
  for (const json& point : details.value("curve", json::array())) {
    LossPoint made{point[0].get<int64_t>(), number_or_nan(point[1]), std::nullopt};
    if (const auto found = validation.find(made.step); found != validation.end()) made.validation = found->second;
    curve.push_back(made);
  }
  return curve;
}

ExpertCourse expert_course(const json& details) {
  ExpertCourse course;
  for (const json& point : details.value("expert_vitality", json::array())) {
    course.steps.push_back(point["step"]);
    for (const json& part : point["parts"]) {
      const ExpertCourse::Part row{part["layer"], part["part"] == "attention"};
      if (part.contains("least_share_over_mean"))
        course.least_output_share[row].push_back(number_or_nan(part["least_share_over_mean"]));
      course.least_weight_rms[row].push_back(number_or_nan(part["least_rms_over_mean"]));
    }
  }
  return course;
}

/// By layer, NaN of a dense one.
std::vector<double> scales(const json& details, const char* key) {
  std::vector<double> values;
  for (const json& scale : details.value(key, json::array())) values.push_back(number_or_nan(scale));
  return values;
}

/// Of a conversion's receipt.
std::string measured_on(const json& receipt) {
  return concat(receipt["tokens"].get<int64_t>(),
                receipt["held_out"].get<bool>() ? " held-out tokens" : " tokens that it was fitted to");
}

/// By layer, of a receipt's list of them.
std::map<int64_t, double> layer_errors(const json& layers, const char* key) {
  std::map<int64_t, double> errors;
  for (const json& layer : layers) {
    if (layer.contains(key) && layer[key].is_number()) errors[layer["layer"]] = layer[key];
  }
  return errors;
}

void add_receipt(const json& receipt, StageReport& report) {
  report.measured_on = measured_on(receipt);
  report.ffn_errors = layer_errors(receipt.value("layers", json::array()), "relative_ffn_error");
  if (receipt.contains("attention"))
    report.attention_errors = layer_errors(receipt["attention"]["layers"], "relative_attention_error");
}

StageReport stage_report(const v1::Stage& spec, const v1::StageState& state, const json* record) {
  StageReport report;
  report.name = state.name();
  report.message = state.message();
  report.kind = stage_kind(spec);
  report.state = shown_state(state);
  report.metrics = {state.metrics().begin(), state.metrics().end()};
  report.is_conversion = leaves(spec, Artifact::kConvertedModel);
  if (record == nullptr) return report;
  const json& details = (*record)["details"];
  if (details.contains("receipt")) add_receipt(details["receipt"], report);
  report.seconds = (*record)["seconds"];
  report.loss_curve = loss_curve(details);
  report.expert_course = expert_course(details);
  report.expert_load = load_matrix(perplexity_of(details), "expert_load");
  report.attention_expert_load = load_matrix(perplexity_of(details), "attention_expert_load");
  report.output_scales = scales(details, "output_scales");
  report.attention_output_scales = scales(details, "attention_output_scales");
  return report;
}

/// Domains in the order in which evaluations name their files.
std::vector<std::string> domain_order(const v1::PipelineSpec& spec) {
  std::vector<std::string> order;
  for (const v1::Stage& stage : spec.stages()) {
    if (!leaves(stage, Artifact::kEvaluation)) continue;
    for (const StageInput& input : inputs_of(stage)) {
      if (!input.is_model) order.push_back(input.domain);
    }
    break;
  }
  return order;
}

/// All training lines of all stages, each with its stage.
void write_metrics(const fs::path& root, const std::vector<json>& records, const FolderOf& folder_of) {
  std::string text;
  for (const json& record : records) {
    const JobKind* kind = kind_named(record["kind"].get<std::string>());
    if (kind == nullptr || !kind->has_steps) continue;
    const JobFolder folder(folder_of(record["stage"]));
    for (json line : read_json_lines(folder.attempt_path(record["attempt"]) / "metrics.jsonl")) {
      line["stage"] = record["stage"];
      text += line.dump() + "\n";
    }
  }
  write_file_atomically(root / "metrics.jsonl", text);
}

std::string reason_of(const v1::Pipeline& state) {
  if (state.phase() != "HELD") return state.reason();
  for (const v1::StageState& stage : state.stages()) {
    if (stage.is_gate() && stage.status() == "HELD") return stage.message();
  }
  return state.reason();
}

}  // namespace

std::string write_run_summary(const fs::path& root, const v1::PipelineSpec& effective, const v1::Pipeline& state,
                              const std::vector<json>& records, const FolderOf& job_folder) {
  PipelineReport report;
  report.name = effective.name();
  report.state = state.phase();
  report.reason = reason_of(state);
  report.config = to_json(effective);
  json gates = json::array();
  for (int i = 0; i < state.stages_size(); ++i) {
    const v1::StageState& stage = state.stages(i);
    report.stages.push_back(stage_report(effective.stages(i), stage, record_of(records, stage.name())));
    if (stage.is_gate()) {
      gates.push_back({{"name", stage.name()}, {"state", stage.status()}, {"message", stage.message()}});
    }
  }
  report.models = model_reports(effective, records);
  report.compared = compared_conversions(effective, records);
  report.domain_order = domain_order(effective);
  std::vector<std::pair<std::string, std::string>> finals;
  for (const json& record : records) {
    report.finished_at = record["finished_at"];
    const std::string kind = record["kind"];
    const JobKind* row = kind_named(kind);
    if (row == nullptr || row->leaves == Artifact::kEvaluation) continue;  // an evaluation stands in the tables
    const std::string output = JobFolder(job_folder(record["stage"])).output_path(record["attempt"]).string();
    if (row->leaves == Artifact::kExportedModel || row->leaves == Artifact::kReport) {
      finals.emplace_back(kind, output);
    } else {
      report.paths = {{"model", output}};  // the others were steps on the way to the last
    }
  }
  report.paths.insert(report.paths.end(), finals.begin(), finals.end());
  report.paths.emplace_back("report", (root / "report.html").string());
  write_metrics(root, records, job_folder);
  json summary = {{"name", report.name}, {"state", report.state}, {"reason", report.reason},
                  {"stages", records},   {"gates", gates},        {"config", json::parse(report.config)}};
  if (!report.compared.empty()) summary["comparison"] = comparison_json(report);
  write_file_atomically(root / "report.html", render_html(report));
  write_file_atomically(root / "summary.json", summary.dump(1) + "\n");
  return render_terminal(report, terminal_width());
}

}  // namespace moe
