#include "eval/analyses/neuron_overlap.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/conversion_files.h"
#include "checkpoint/safetensors.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "eval/analyses.h"
#include "eval/analyses/mixture_checks.h"
#include "eval/analyses/router_figures.h"

/// neuron_overlap: which neurons of the dense FFN the experts share, from conversion.safetensors.
namespace moe {
namespace {

using nlohmann::json;

std::filesystem::path indices_file(const ModelDirectory& model) {
  return model.path() / kConversionIndices;
}

std::string needs_indices(const ModelDirectory& model) {
  if (std::string reason = needs_ffn_experts(model); !reason.empty()) return reason;
  if (is_there(indices_file(model))) return "";
  return concat("there is no ", kConversionIndices,
                ": its experts are not known to be made of neurons of a dense FFN; analyse a converted model whose "
                "method takes whole neurons");
}

std::vector<std::vector<int32_t>> neuron_lists(const SafetensorsFile& indices, const std::string& name,
                                               int64_t experts_of_model) {
  const at::Tensor read_EN = indices.tensor(name).to(at::kInt).contiguous();
  if (read_EN.dim() != 2 || read_EN.size(0) != experts_of_model) {
    throw Corruption(concat(indices.path().string(), ": ", name, " has not a row for each of ", experts_of_model,
                            " experts; convert the model again"));
  }
  const auto* neuron = read_EN.const_data_ptr<int32_t>();
  std::vector<std::vector<int32_t>> experts(read_EN.size(0));
  for (std::vector<int32_t>& expert : experts) {
    for (int64_t i = 0; i < read_EN.size(1); ++i, ++neuron) {
      if (*neuron >= 0) expert.push_back(*neuron);  // narrower experts end in -1
    }
  }
  return experts;
}

json overlap_json(int64_t layer, const NeuronOverlap& overlap) {
  return {{"layer", layer},
          {"part", "ffn"},
          {"experts", overlap.jaccard.size()},
          {"jaccard", overlap.jaccard},
          {"mean_jaccard", overlap.mean_jaccard},
          {"distinct_neurons", overlap.distinct},
          {"duplicate_rate", overlap.duplicate_rate},
          {"neurons_chosen_times", overlap.times},
          {"chosen_times_by_expert", overlap.chosen}};
}

json measure_overlap(const ModelSubject& subject) {
  const std::string told = agree_on_result(subject.world, "compare neurons of experts", [&] {
    const SafetensorsFile indices(indices_file(subject.model));
    json layers = json::array();
    const MoeConfig& moe = *subject.model.config().moe;
    for (const int64_t layer : moe.mixture_layers()) {
      const std::string name = conversion_indices_name(layer);
      if (indices.find(name) == nullptr) continue;  // its experts are more than copies of neurons
      layers.push_back(overlap_json(layer, neuron_overlap_of(neuron_lists(indices, name, moe.num_experts))));
    }
    return json{{"layers", layers}}.dump();
  });
  subject.unit_done();
  return json::parse(told);
}

std::map<std::string, double> overlap_metrics(const json& result) {
  double jaccard = 0, duplicates = 0;
  for (const json& layer : result["layers"]) {
    jaccard += layer["mean_jaccard"].get<double>();
    duplicates += layer["duplicate_rate"].get<double>();
  }
  const auto layers = static_cast<double>(std::max<size_t>(1, result["layers"].size()));
  return {{"neuron_overlap", jaccard / layers}, {"neuron_duplicate_rate", duplicates / layers}};
}

Figure jaccard_map(const json& layer) {
  Figure figure{.name = concat("layer-", layer["layer"].get<int64_t>()),
                .title = concat("Overlap of the experts, layer ", layer["layer"].get<int64_t>()),
                .note = "Neurons that two experts share over those that either has.",
                .scale = Figure::Scale::kShare,
                .row_title = "expert",
                .column_title = "expert",
                .values = layer["jaccard"]};
  for (size_t e = 0; e < figure.values.size(); ++e) figure.rows.push_back(std::to_string(e));
  figure.columns = figure.rows;
  return figure;
}

std::vector<Figure> overlap_figures(const json& result) {
  std::vector<Figure> figures;
  if (result["layers"].empty()) return figures;
  Figure lines = router_lines(result["layers"], {"mean_jaccard", "duplicate_rate"},
                              [](const json& layer, const std::string& name) { return layer[name].get<double>(); });
  lines.name = "layers";
  lines.title = "Overlap by layer";
  lines.note = "Mean share of neurons of two experts, and share of the experts' neurons that another has too.";
  lines.rows = {"overlap of two experts", "duplicate rate"};
  figures.push_back(std::move(lines));
  // Disjoint experts have nothing to show by pairs.
  const auto shares = [](const json& layer) { return layer["duplicate_rate"].get<double>() > 0; };
  for (const json& layer : result["layers"]) {
    if (shares(layer)) figures.push_back(jaccard_map(layer));
  }
  return figures;
}

}  // namespace

NeuronOverlap neuron_overlap_of(const std::vector<std::vector<int32_t>>& experts) {
  std::map<int32_t, int64_t> times;
  size_t slots = 0;
  std::vector<std::vector<int32_t>> sorted = experts;
  for (std::vector<int32_t>& expert : sorted) {
    std::sort(expert.begin(), expert.end());
    expert.erase(std::unique(expert.begin(), expert.end()), expert.end());
    slots += expert.size();
    for (const int32_t neuron : expert) ++times[neuron];
  }
  NeuronOverlap overlap;
  const size_t count = experts.size();
  overlap.jaccard.assign(count, std::vector<double>(count, 0.0));
  overlap.chosen.assign(count, std::vector<int64_t>(count, 0));
  overlap.distinct = static_cast<int64_t>(times.size());
  overlap.times.assign(count, 0);
  for (const auto& [neuron, experts_with] : times) ++overlap.times[experts_with - 1];
  for (size_t a = 0; a < count; ++a) {
    for (const int32_t neuron : sorted[a]) ++overlap.chosen[times[neuron] - 1][a];
    for (size_t b = 0; b < count; ++b) {
      std::vector<int32_t> both;
      std::set_intersection(sorted[a].begin(), sorted[a].end(), sorted[b].begin(), sorted[b].end(),
                            std::back_inserter(both));
      const size_t either = sorted[a].size() + sorted[b].size() - both.size();
      overlap.jaccard[a][b] = either > 0 ? static_cast<double>(both.size()) / static_cast<double>(either) : 0;
      if (a != b) overlap.mean_jaccard += overlap.jaccard[a][b];
    }
  }
  if (count > 1) overlap.mean_jaccard /= static_cast<double>(count * (count - 1));
  if (slots > 0) overlap.duplicate_rate = static_cast<double>(slots - times.size()) / static_cast<double>(slots);
  return overlap;
}

Analysis neuron_overlap() {
  return {.title = "Neuron overlap",
          .summary = "Which neurons of the dense FFN the routed experts have in common, as the conversion chose them.",
          .refusal = needs_indices,
          .of_model = measure_overlap,
          .model_units = [](const ModelConfig&) { return int64_t{1}; },
          .metrics = overlap_metrics,
          .figures = overlap_figures};
}

}  // namespace moe
