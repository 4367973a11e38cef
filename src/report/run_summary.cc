#include "report/run_summary.h"

#include <google/protobuf/util/json_util.h>
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

const json* record_of(const std::vector<json>& records, const std::string& stage) {
  for (const json& record : records) {
    if (record["stage"] == stage) return &record;
  }
  return nullptr;
}

std::vector<std::vector<double>> load_matrix(const json& details) {
  if (!details.contains("expert_load")) return {};
  return details["expert_load"].get<std::vector<std::vector<double>>>();
}

std::vector<LossPoint> loss_curve(const json& details) {
  std::map<int64_t, double> validation;
  for (const json& point : details.value("validation", json::array())) validation[point["step"]] = point["loss"];
  std::vector<LossPoint> curve;
  for (const json& point : details.value("curve", json::array())) {
    LossPoint made{point[0].get<int64_t>(), point[1].is_number() ? point[1].get<double>() : std::nan(""), std::nullopt};
    if (const auto found = validation.find(made.step); found != validation.end()) made.validation = found->second;
    curve.push_back(made);
  }
  return curve;
}

/// "convert", "train", ..., "gate": name of the message that the stage holds.
std::string kind_of(const v1::Stage& stage) {
  const auto* field =
      stage.GetReflection()->GetOneofFieldDescriptor(stage, stage.GetDescriptor()->FindOneofByName("kind"));
  return field == nullptr ? "" : field->name();
}

StageReport stage_report(const v1::Stage& spec, const v1::StageState& state, const json* record) {
  StageReport report;
  report.name = state.name();
  report.message = state.message();
  report.kind = kind_of(spec);
  report.state = shown_state(state);
  report.metrics = {state.metrics().begin(), state.metrics().end()};
  if (record == nullptr) return report;
  const json& details = (*record)["details"];
  report.seconds = (*record)["seconds"];
  report.loss_curve = loss_curve(details);
  report.expert_load = load_matrix(details);
  if (details.contains("output_scales")) report.output_scales = details["output_scales"].get<std::vector<double>>();
  return report;
}

ModelReport model_report(const json& result) {
  ModelReport report;
  report.parameters_total = result["model"]["parameters_total"];
  report.parameters_active = result["model"]["parameters_active"];
  report.experts = result["model"]["experts"];
  report.top_k = result["model"]["top_k"];
  const json domains = result.value("domains", json::object());
  for (const auto& [name, domain] : domains.items()) {
    report.domains[name] = {domain["loss"], domain["perplexity"]};
  }
  report.expert_load = load_matrix(result);
  return report;
}

/// The models that evaluations measured, in the order in which stages make them, and not in that in which they were
/// measured.
class MeasuredModels {
 public:
  explicit MeasuredModels(const v1::PipelineSpec& spec) {
    const auto conversions = std::count_if(spec.stages().begin(), spec.stages().end(),
                                           [](const v1::Stage& stage) { return stage.has_convert(); });
    for (int i = 0; i < spec.stages_size(); ++i) {
      const v1::Stage& stage = spec.stages(i);
      Maker maker{i, "after " + stage.name(), ModelRole::kTrained};
      if (stage.has_convert())
        maker = {i, conversions > 1 ? "after " + stage.name() : "converted", ModelRole::kConverted};
      if (stage.has_export_()) maker = {i, "exported", ModelRole::kOther};
      makers_[stage.name() + ".model"] = maker;
    }
  }

  /// What the evaluation `stage` found of a model. One that was measured before gets more domains; where it was
  /// measured on the same ones, both results stay, the later with the evaluation's name.
  void add(const std::string& reference, const json& result, const std::string& stage) {
    Entry entry{kOutside, reference, model_report(result)};
    const auto maker = makers_.find(reference);
    if (maker != makers_.end()) {
      entry.place = maker->second.stage;
      entry.report.label = maker->second.label;
      entry.report.role = maker->second.role;
    } else {
      const bool is_first_dense = entry.report.experts == 0 && (dense_.empty() || dense_ == reference);
      if (is_first_dense) dense_ = reference;
      entry.report.label = is_first_dense ? "dense" : reference;
      if (entry.report.experts == 0) entry.report.role = ModelRole::kDense;
    }
    for (Entry& before : entries_) {
      if (before.reference != reference) continue;
      if (has_all_of(before.report, entry.report)) return;
      if (has_none_of(before.report, entry.report)) {
        before.report.domains.merge(entry.report.domains);
        return;
      }
      entry.report.label = concat(before.report.label, ", ", stage);
    }
    entries_.push_back(std::move(entry));
  }

  std::vector<ModelReport> take() {
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.place < b.place; });
    std::vector<ModelReport> models;
    for (Entry& entry : entries_) models.push_back(std::move(entry.report));
    return models;
  }

 private:
  static constexpr int kOutside = -1;  ///< before every stage
  struct Maker {
    int stage = 0;
    std::string label;
    ModelRole role = ModelRole::kOther;
  };
  struct Entry {
    int place;
    std::string reference;
    ModelReport report;
  };

  static bool has_all_of(const ModelReport& before, const ModelReport& after) {
    return std::all_of(after.domains.begin(), after.domains.end(), [&](const auto& domain) {
      const auto found = before.domains.find(domain.first);
      return found != before.domains.end() && found->second.loss == domain.second.loss;
    });
  }
  static bool has_none_of(const ModelReport& before, const ModelReport& after) {
    return std::none_of(after.domains.begin(), after.domains.end(),
                        [&](const auto& domain) { return before.domains.contains(domain.first); });
  }

  std::map<std::string, Maker> makers_;  ///< by the reference to what they make
  std::string dense_;                    ///< the model from outside that is called so
  std::vector<Entry> entries_;
};

std::vector<ModelReport> model_reports(const v1::PipelineSpec& spec, const std::vector<json>& records) {
  MeasuredModels models(spec);
  for (const v1::Stage& stage : spec.stages()) {
    const json* record = record_of(records, stage.name());
    if (!stage.has_evaluate() || record == nullptr) continue;
    const json& result = (*record)["details"];
    if (result.contains("baseline")) models.add(stage.evaluate().baseline(), result["baseline"], stage.name());
    models.add(stage.evaluate().input(), result, stage.name());
  }
  return models.take();
}

/// Domains in the order in which evaluations name their files.
std::vector<std::string> domain_order(const v1::PipelineSpec& spec) {
  std::vector<std::string> order;
  for (const v1::Stage& stage : spec.stages()) {
    if (!stage.has_evaluate()) continue;
    for (const v1::DataSource& source : stage.evaluate().data()) order.push_back(source.domain());
    break;
  }
  return order;
}

/// All training lines of all stages, each with its stage.
void write_metrics(const fs::path& root, const std::vector<json>& records, const FolderOf& folder_of) {
  std::string text;
  for (const json& record : records) {
    if (record["kind"] != "train") continue;
    const JobFolder folder(folder_of(record["stage"]));
    for (json line : read_json_lines(folder.attempt_path(record["attempt"]) / "metrics.jsonl")) {
      line["stage"] = record["stage"];
      text += line.dump() + "\n";
    }
  }
  write_file_atomically(root / "metrics.jsonl", text);
}

/// Every field with the schema's name, also those that are zero.
std::string config_text(const v1::PipelineSpec& spec) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(spec, &text, options);
  MOE_CHECK(status.ok(), status.ToString());
  return text;
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
  report.config = config_text(effective);
  json gates = json::array();
  for (int i = 0; i < state.stages_size(); ++i) {
    const v1::StageState& stage = state.stages(i);
    report.stages.push_back(stage_report(effective.stages(i), stage, record_of(records, stage.name())));
    if (stage.is_gate()) {
      gates.push_back({{"name", stage.name()}, {"state", stage.status()}, {"message", stage.message()}});
    }
  }
  report.models = model_reports(effective, records);
  report.domain_order = domain_order(effective);
  std::vector<std::pair<std::string, std::string>> exports;
  for (const json& record : records) {
    report.finished_at = record["finished_at"];
    if (record["kind"] == "evaluate") continue;
    const std::string output = JobFolder(job_folder(record["stage"])).output_path(record["attempt"]).string();
    if (record["kind"] == "export") {
      exports.emplace_back("export", output);
    } else {
      report.paths = {{"model", output}};
    }
  }
  report.paths.insert(report.paths.end(), exports.begin(), exports.end());
  report.paths.emplace_back("report", (root / "report.html").string());
  write_metrics(root, records, job_folder);
  const json summary = {{"name", report.name}, {"state", report.state}, {"reason", report.reason},
                        {"stages", records},   {"gates", gates},        {"config", json::parse(report.config)}};
  write_file_atomically(root / "report.html", render_html(report));
  write_file_atomically(root / "summary.json", summary.dump(1) + "\n");
  return render_terminal(report, terminal_width());
}

}  // namespace moe
