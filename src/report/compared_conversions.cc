#include "report/compared_conversions.h"

#include <algorithm>
#include <map>
#include <set>

#include "common/error.h"
#include "pipeline/inputs.h"
#include "report/measured_models.h"

namespace moe {
namespace {

using nlohmann::json;

/// Where the models of a pipeline come from and what was measured of them, by reference ("dense", "stage1.model").
class Lineages {
 public:
  Lineages(const v1::PipelineSpec& spec, const std::vector<json>& records) : records_(records) {
    for (const v1::Stage& stage : spec.stages()) {
      const std::vector<std::string> models = model_references(stage);
      if (models.empty()) continue;
      if (leaves(stage, Artifact::kConvertedModel) || leaves(stage, Artifact::kTrainedModel)) {
        makers_[stage.name() + ".model"] = {&stage, models.front()};
        made_.push_back(stage.name() + ".model");
        if (leaves(stage, Artifact::kTrainedModel)) trained_.insert(models.front());
        continue;
      }
      if (leaves(stage, Artifact::kExportedModel)) exported_.insert(stage.name() + ".model");
      const json* record = record_of(records, stage.name());
      if (record == nullptr) continue;
      const json& details = (*record)["details"];
      if (leaves(stage, Artifact::kEvaluation)) {
        if (models.size() > 1 && details.contains("baseline")) measure(models[1], details["baseline"]);
        measure(models.front(), details);
      } else if (leaves(stage, Artifact::kExportedModel) && details.contains("export")) {
        formats_[models.front()] = details["export"].value("format", "");
      }
    }
  }

  /// Models that no training goes on from.
  std::vector<std::string> last_models() const {
    std::vector<std::string> last;
    for (const std::string& model : made_) {
      if (!trained_.contains(model)) last.push_back(model);
    }
    return last;
  }

  /// The models from `model` back to its conversion (or to what the pipeline was given), which is the last.
  std::vector<std::string> back_to_root(const std::string& model) const {
    std::vector<std::string> way{model};
    while (true) {
      const auto maker = makers_.find(way.back());
      if (maker == makers_.end() || leaves(*maker->second.stage, Artifact::kConvertedModel)) return way;
      way.push_back(maker->second.input);
    }
  }

  /// Whether a training on the way took the shape of what it began with and none of its weights.
  bool is_from_scratch(const std::vector<std::string>& way) const {
    return std::any_of(way.begin(), way.end(), [this](const std::string& model) {
      const v1::Stage* maker = maker_of(model);
      return maker != nullptr && maker->train().from_scratch();
    });
  }

  /// nullptr for a model from outside.
  const v1::Stage* maker_of(const std::string& model) const {
    const auto maker = makers_.find(model);
    return maker == makers_.end() ? nullptr : maker->second.stage;
  }
  const ModelReport* measured(const std::string& model) const {
    const auto found = measured_.find(model);
    return found == measured_.end() ? nullptr : &found->second;
  }
  const json* record(const std::string& model) const {
    const v1::Stage* maker = maker_of(model);
    return maker == nullptr ? nullptr : record_of(records_, maker->name());
  }
  std::string format(const std::string& model) const {
    const auto found = formats_.find(model);
    return found == formats_.end() ? "" : found->second;
  }
  /// Dense models from outside that were measured, in the order in which they were.
  std::vector<std::string> outside() const {
    std::vector<std::string> models;
    for (const std::string& model : measured_order_) {
      if (!makers_.contains(model) && !exported_.contains(model) && is_dense(measured_.at(model)))
        models.push_back(model);
    }
    return models;
  }
  /// Parameters of the dense model that a model was converted from, or is; 0 where that was not measured.
  int64_t dense_parameters(const std::string& root) const {
    const auto maker = makers_.find(root);
    const ModelReport* dense = measured(maker == makers_.end() ? root : maker->second.input);
    return dense == nullptr || !is_dense(*dense) ? 0 : dense->parameters_total;
  }

 private:
  struct Maker {
    const v1::Stage* stage;
    std::string input;
  };

  /// A domain that was measured twice keeps what was found first. What was measured otherwise than as it is does not
  /// count.
  void measure(const std::string& model, const json& result) {
    ModelReport found = model_report(result);
    if (!found.measured_with.empty()) return;
    const auto [place, is_new] = measured_.try_emplace(model, found);
    if (is_new) measured_order_.push_back(model);
    if (!is_new) place->second.domains.merge(found.domains);
  }

  const std::vector<json>& records_;
  std::vector<std::string> made_, measured_order_;
  std::map<std::string, Maker> makers_;
  std::set<std::string> trained_;   ///< those that a training goes on from
  std::set<std::string> exported_;  ///< those that an export wrote, which are others in another form
  std::map<std::string, ModelReport> measured_;
  std::map<std::string, std::string> formats_;
};

std::map<std::string, double> losses_of(const ModelReport* model) {
  std::map<std::string, double> losses;
  if (model == nullptr) return losses;
  for (const auto& [domain, result] : model->domains) losses[domain] = result.loss;
  return losses;
}

std::optional<std::pair<double, double>> widest_load(const ModelReport* model) {
  if (model == nullptr || model->expert_load.empty()) return std::nullopt;
  std::pair<double, double> widest = load_range(model->expert_load.front());
  for (const std::vector<double>& layer : model->expert_load) {
    const auto [least, greatest] = load_range(layer);
    widest = {std::min(widest.first, least), std::max(widest.second, greatest)};
  }
  return widest;
}

std::string experts_text(const v1::ConvertSpec& convert) {
  const v1::FfnExpertsSpec& ffn = convert.ffn();
  const v1::AttentionExpertsSpec& attention = convert.attention();
  std::string text;
  if (convert.has_ffn()) {
    text = concat(
        ffn.experts(), ffn.shared_experts() > 0 ? concat(" + ", ffn.shared_experts(), " shared") : std::string(),
        ffn.has_shared_gate() && ffn.shared_gate() != "none" ? concat(" (", ffn.shared_gate(), ")") : std::string(),
        ", top-", ffn.top_k());
  }
  if (!convert.has_attention()) return text;
  return concat(text, text.empty() ? "" : "; ", "attention ", attention.experts(), ", top-", attention.top_k());
}

/// "random" of "random-s3" with seed 3, as for_each names it.
std::string without_seed(const std::string& label, uint64_t seed) {
  const std::string ending = concat("-s", seed);
  return label.ends_with(ending) && label.size() > ending.size() ? label.substr(0, label.size() - ending.size())
                                                                 : label;
}

/// What all conversions' names end in, from a dash on ("-convert", where variants were written out); empty if nothing.
std::string common_ending(const v1::PipelineSpec& spec) {
  std::optional<std::string> ending;
  for (const v1::Stage& stage : spec.stages()) {
    if (!leaves(stage, Artifact::kConvertedModel)) continue;
    const size_t dash = stage.name().rfind('-');
    const std::string own = dash == std::string::npos || dash == 0 ? "" : stage.name().substr(dash);
    if (ending && *ending != own) return "";
    ending = own;
  }
  return ending.value_or("");
}

ComparedConversion row_of(const Lineages& lineages, const std::string& last, bool is_only_one,
                          const std::string& ending) {
  const std::vector<std::string> way = lineages.back_to_root(last);
  const std::string& root = way.back();
  const ModelReport* converted = lineages.measured(root);
  const ModelReport* trained = way.size() > 1 ? lineages.measured(last) : nullptr;
  const ModelReport* shown = trained != nullptr ? trained : converted;
  ComparedConversion row;
  const v1::Stage* conversion = lineages.maker_of(root);
  row.label = conversion != nullptr ? conversion->name().substr(0, conversion->name().size() - ending.size()) : root;
  row.variant =
      conversion != nullptr && conversion->has_seed() ? without_seed(row.label, conversion->seed()) : row.label;
  if (way.size() > 1 && !is_only_one) {
    // A training that for_each wrote out is told by what it is called there.
    const std::string training = lineages.maker_of(last)->name();
    const std::string own = training.starts_with(row.label + "-") ? training.substr(row.label.size() + 1) : training;
    row.label += concat(", ", training);
    row.variant += concat(", ", own);
  }
  if (conversion != nullptr) row.experts = experts_text(conversion->convert());
  if (shown != nullptr) row.parameters_active = shown->parameters_active;
  row.dense_parameters = lineages.dense_parameters(root);
  const bool is_from_scratch = lineages.is_from_scratch(way);
  if (!is_from_scratch) row.converted = losses_of(converted);
  row.trained = losses_of(trained);
  row.load = widest_load(shown);
  for (const std::string& model : way) {
    if (const json* record = lineages.record(model)) row.seconds += record->value("seconds", 0.0);
  }
  const json* record = is_from_scratch ? nullptr : lineages.record(root);
  if (record != nullptr && record->contains("metrics")) {
    const auto divergence = (*record)["metrics"].find("step0_kl_divergence");
    if (divergence != (*record)["metrics"].end() && divergence->is_number()) row.divergence = divergence->get<double>();
  }
  for (const std::string& model : way) {
    if (row.export_format.empty()) row.export_format = lineages.format(model);
  }
  return row;
}

}  // namespace

std::vector<ComparedConversion> compared_conversions(const v1::PipelineSpec& spec, const std::vector<json>& records) {
  const auto conversions = std::count_if(spec.stages().begin(), spec.stages().end(), [](const v1::Stage& stage) {
    return leaves(stage, Artifact::kConvertedModel);
  });
  if (conversions < 2) return {};
  const Lineages lineages(spec, records);
  const std::string ending = common_ending(spec);
  std::vector<ComparedConversion> rows;
  for (const std::string& model : lineages.outside()) rows.push_back(row_of(lineages, model, true, ending));
  const std::vector<std::string> last_models = lineages.last_models();
  std::map<std::string, int> ends;
  for (const std::string& model : last_models) ++ends[lineages.back_to_root(model).back()];
  for (const std::string& model : last_models) {
    const std::string root = lineages.back_to_root(model).back();
    // Training a dense model stands beside the dense model itself.
    const bool is_only_one = ends[root] == 1 && lineages.maker_of(root) != nullptr;
    // And is no row where only that was measured.
    if (lineages.maker_of(root) == nullptr && lineages.measured(model) == nullptr) continue;
    rows.push_back(row_of(lineages, model, is_only_one, ending));
  }
  std::erase_if(rows, [](const ComparedConversion& row) { return row.converted.empty() && row.trained.empty(); });
  return rows;
}

}  // namespace moe
