#include "report/measured_models.h"

#include <algorithm>
#include <map>
#include <utility>

#include "common/error.h"
#include "pipeline/inputs.h"

namespace moe {

using nlohmann::json;

const json* record_of(const std::vector<json>& records, const std::string& stage) {
  for (const json& record : records) {
    if (record["stage"] == stage) return &record;
  }
  return nullptr;
}

bool leaves(const v1::Stage& stage, Artifact artifact) {
  const JobKind* kind = kind_of(stage);
  return kind != nullptr && kind->leaves == artifact;
}

const json& perplexity_of(const json& evaluation) {
  static const json nothing = json::object();
  const auto tasks = evaluation.find("tasks");
  if (tasks == evaluation.end()) return evaluation;
  const auto found = tasks->find("perplexity");
  return found == tasks->end() ? nothing : *found;
}

std::vector<std::vector<double>> load_matrix(const json& details, const char* key) {
  if (!details.contains(key)) return {};
  return details[key].get<std::vector<std::vector<double>>>();
}

bool is_dense(const ModelReport& model) {
  return model.experts == 0 && model.attention_expert_load.empty();
}

ModelReport model_report(const json& result) {
  ModelReport report;
  report.parameters_total = result["model"]["parameters_total"];
  report.parameters_active = result["model"]["parameters_active"];
  report.experts = result["model"]["experts"];
  report.top_k = result["model"]["top_k"];
  report.measured_with = result["model"].value("measured_with", "");
  const json& measured = perplexity_of(result);
  const json domains = measured.value("domains", json::object());
  for (const auto& [name, domain] : domains.items()) {
    report.domains[name] = {domain["loss"], domain["perplexity"]};
  }
  report.expert_load = load_matrix(measured, "expert_load");
  report.attention_expert_load = load_matrix(measured, "attention_expert_load");
  return report;
}

namespace {

class MeasuredModels {
 public:
  explicit MeasuredModels(const v1::PipelineSpec& spec) {
    const auto conversions = std::count_if(spec.stages().begin(), spec.stages().end(), [](const v1::Stage& stage) {
      return leaves(stage, Artifact::kConvertedModel);
    });
    for (int i = 0; i < spec.stages_size(); ++i) {
      const v1::Stage& stage = spec.stages(i);
      Maker maker{i, "after " + stage.name(), ModelRole::kTrained};
      if (leaves(stage, Artifact::kConvertedModel))
        maker = {i, conversions > 1 ? "after " + stage.name() : "converted", ModelRole::kConverted};
      if (leaves(stage, Artifact::kExportedModel)) maker = {i, "exported", ModelRole::kOther};
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
      const bool is_first_dense = is_dense(entry.report) && (dense_.empty() || dense_ == reference);
      if (is_first_dense) dense_ = reference;
      entry.report.label = is_first_dense ? "dense" : reference;
      if (is_dense(entry.report)) entry.report.role = ModelRole::kDense;
    }
    if (const std::string& manner = entry.report.measured_with; !manner.empty()) {
      entry.report.label += concat(" (", manner, ")");
      entry.report.role = ModelRole::kOther;
    }
    for (Entry& before : entries_) {
      if (before.reference != reference || before.report.measured_with != entry.report.measured_with) continue;
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
    // Of one model, as it is comes last: what is told of the result is told of that.
    const auto place = [](const Entry& entry) { return std::pair(entry.place, entry.report.measured_with.empty()); };
    std::stable_sort(entries_.begin(), entries_.end(),
                     [&](const Entry& a, const Entry& b) { return place(a) < place(b); });
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

}  // namespace

std::vector<ModelReport> model_reports(const v1::PipelineSpec& spec, const std::vector<json>& records) {
  MeasuredModels models(spec);
  for (const v1::Stage& stage : spec.stages()) {
    const json* record = record_of(records, stage.name());
    if (!leaves(stage, Artifact::kEvaluation) || record == nullptr) continue;
    const json& result = (*record)["details"];
    std::vector<std::string> measured = model_references(stage);
    measured.resize(2);  // the model and, if there is one, what it is compared with
    if (result.contains("baseline")) models.add(measured[1], result["baseline"], stage.name());
    models.add(measured[0], result, stage.name());
  }
  return models.take();
}

}  // namespace moe
