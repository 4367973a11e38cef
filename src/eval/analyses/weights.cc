#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "eval/analyses.h"
#include "model/tensor_specs.h"

/// weights: sizes of tensors, parts of layers and experts, and their change from a baseline.
namespace moe {
namespace {

using nlohmann::json;

/// Sums over the values of one tensor, or of several.
struct Size {
  int64_t count = 0;
  double squares = 0;
  double largest = 0;  ///< of the absolute values
  double squared_change = 0;
  double squared_before = 0;

  Size& operator+=(const Size& other) {
    count += other.count;
    squares += other.squares;
    largest = std::max(largest, other.largest);
    squared_change += other.squared_change;
    squared_before += other.squared_before;
    return *this;
  }
  double norm() const { return std::sqrt(squares); }
  /// Root of the mean square: what parts of different sizes can be compared by.
  double rms() const { return count > 0 ? std::sqrt(squares / static_cast<double>(count)) : 0; }
  /// ||w - before|| / ||before||; nothing where there was nothing to compare with.
  std::optional<double> change() const {
    return squared_before > 0 ? std::optional(std::sqrt(squared_change / squared_before)) : std::nullopt;
  }
};

json size_json(const Size& size) {
  json result = {{"norm", size.norm()}, {"rms", size.rms()}, {"largest", size.largest}};
  if (size.change()) result["change"] = *size.change();
  return result;
}

double squared_norm(const at::Tensor& values) {
  const auto norm = at::linalg_vector_norm(values, 2, std::nullopt, /*keepdim=*/false, at::kDouble).item<double>();
  return norm * norm;
}

Size size_of(const at::Tensor& stored, const at::Tensor& stored_before) {
  const auto exact = [](const at::Tensor& values) { return values.to(promoteTypes(values.scalar_type(), at::kFloat)); };
  const at::Tensor values = exact(stored);
  Size size{.count = values.numel(),
            .squares = squared_norm(values),
            .largest = std::max(values.max().item<double>(), -values.min().item<double>())};
  if (stored_before.defined()) {
    const at::Tensor before = exact(stored_before);
    size.squared_change = squared_norm(values - before);
    size.squared_before = squared_norm(before);
  }
  return size;
}

/// A layer's part that a tensor counts to.
std::string part_of(const TensorId& id) {
  switch (id.part) {
    case TensorPart::kQuery:
    case TensorPart::kKey:
    case TensorPart::kValue:
    case TensorPart::kAttentionOut: return "attention";
    case TensorPart::kRouter:
    case TensorPart::kRouterOut:
    case TensorPart::kRouterGate:
    case TensorPart::kRouterNoise:
    case TensorPart::kSharedGate:
    case TensorPart::kRouterGain: return id.routes_attention ? "attention_router" : "router";
    case TensorPart::kSelectionBias: return id.routes_attention ? "attention_selection_bias" : "selection_bias";
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown:
    case TensorPart::kOutputBias: return id.expert == kSharedExpert ? "shared_expert" : "ffn";
    default: return "norms";
  }
}

struct LayerSizes {
  std::map<std::string, Size> parts;
  std::map<int64_t, Size> experts, attention_experts;  ///< by number

  /// What the tensor counts to.
  Size& of(const TensorId& id) {
    if (!id.is_routed()) return parts[part_of(id)];
    return (id.is_of_attention() ? attention_experts : experts)[id.expert];
  }
};

/// Least rms of an expert over the mean of its layer, of the worst layer; 1 where there are no experts.
double least_expert_rms(const json& layers) {
  double least = 1;
  for (const json& layer : layers) {
    for (const char* list : {"experts", "attention_experts"}) {
      double sum = 0, smallest = std::numeric_limits<double>::max();
      const json experts = layer.value(list, json::array());
      for (const json& expert : experts) {
        const double rms = expert["rms"];
        sum += rms;
        smallest = std::min(smallest, rms);
      }
      if (sum > 0) least = std::min(least, smallest * static_cast<double>(experts.size()) / sum);
    }
  }
  return least;
}

Size measure(const ModelSubject& subject, const TensorSpec& spec) {
  const std::string& name = spec.name;
  const bool compares = subject.baseline != nullptr && spec.id.part != TensorPart::kSelectionBias;
  const Size size = size_of(subject.model.tensor(name), compares ? subject.baseline->tensor(name) : at::Tensor());
  subject.model.release(name);
  if (compares) subject.baseline->release(name);
  return size;
}

/// Rank 0 reads and tells: the work is that of the storage.
Size measured_on_rank_0(const ModelSubject& subject, const TensorSpec& spec) {
  const std::string told = agree_on_result(subject.world, "measure " + spec.name, [&] {
    const Size size = measure(subject, spec);
    return json{size.count, size.squares, size.largest, size.squared_change, size.squared_before}.dump();
  });
  const json numbers = json::parse(told);
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
}

json layers_json(const std::map<int64_t, LayerSizes>& layers) {
  json all = json::array();
  for (const auto& [number, layer] : layers) {
    json one = {{"layer", number}};
    for (const auto& [part, size] : layer.parts) one[part] = size_json(size);
    for (const auto& [expert, size] : layer.experts) one["experts"].push_back(size_json(size));
    for (const auto& [expert, size] : layer.attention_experts) one["attention_experts"].push_back(size_json(size));
    all.push_back(std::move(one));
  }
  return all;
}

json measure_weights(const ModelSubject& subject) {
  Size all;
  std::map<int64_t, LayerSizes> layers;
  json tensors = json::array();
  for (const TensorSpec& spec : logical_tensor_specs(subject.model.config())) {
    const Size size = measured_on_rank_0(subject, spec);
    all += size;
    if (spec.id.layer >= 0) {
      layers[spec.id.layer].of(spec.id) += size;
    }
    json row = size_json(size);
    row.update({{"name", spec.name}, {"shape", spec.shape}});
    tensors.push_back(std::move(row));
    subject.unit_done();
  }
  return {{"all", size_json(all)}, {"layers", layers_json(layers)}, {"tensors", std::move(tensors)}};
}

/// Of each layer's experts in `list`, over the mean of the layer where `over_mean`.
Figure expert_figure(const json& layers, const std::string& list, const std::string& key, bool over_mean) {
  Figure figure{.row_title = "layer", .column_title = "expert"};
  for (const json& layer : layers) {
    std::vector<double> row;
    double sum = 0;
    for (const json& expert : layer.value(list, json::array())) {
      row.push_back(expert.value(key, std::nan("")));
      sum += row.back();
    }
    if (row.empty()) continue;
    if (over_mean) {
      for (double& value : row) value *= sum > 0 ? static_cast<double>(row.size()) / sum : 0;
      figure.scale = Figure::Scale::kEvenShare;
      figure.unit = "× the mean of its layer";
    }
    while (figure.columns.size() < row.size()) figure.columns.push_back(std::to_string(figure.columns.size()));
    figure.rows.push_back(concat(layer["layer"].get<int64_t>()));
    figure.values.push_back(std::move(row));
  }
  return figure;
}

/// A number of each part by layer.
Figure part_figure(const json& layers, const std::string& key) {
  Figure figure{.form = Figure::Form::kLines, .row_title = "part", .column_title = "layer"};
  for (const json& layer : layers) figure.columns.push_back(concat(layer["layer"].get<int64_t>()));
  for (const char* part : {"attention", "router", "attention_router", "ffn", "shared_expert"}) {
    std::vector<double> row;
    for (const json& layer : layers)
      row.push_back(layer.contains(part) ? layer[part].value(key, std::nan("")) : std::nan(""));
    if (std::all_of(row.begin(), row.end(), [](double value) { return std::isnan(value); })) continue;
    figure.rows.emplace_back(part);
    figure.values.push_back(std::move(row));
  }
  return figure;
}

std::vector<Figure> weight_figures(const json& result) {
  const json& layers = result["layers"];
  std::vector<Figure> figures;
  const auto add = [&](Figure figure, const std::string& name, const std::string& title, const std::string& note) {
    if (figure.rows.empty()) return;
    figure.name = name;
    figure.title = title;
    figure.note = note;
    figures.push_back(std::move(figure));
  };
  const bool has_change = result["all"].contains("change");
  for (const auto& [list, name, whose] : {std::tuple{"experts", "experts", "expert"},
                                          {"attention_experts", "attention-experts", "expert of attention"}}) {
    add(expert_figure(layers, list, "rms", true), name, concat("Size of each ", whose),
        "Root mean square of an expert's weights over the mean of its layer: an expert far below 1 has shrunk.");
    if (has_change)
      add(expert_figure(layers, list, "change", false), concat(name, "-change"), concat("Change of each ", whose),
          "Norm of an expert's change from the baseline over the baseline's norm.");
  }
  add(part_figure(layers, "rms"), "parts", "Size of parts", "Root mean square of the weights of each part of a layer.");
  if (has_change)
    add(part_figure(layers, "change"), "part-change", "Change of parts",
        "Norm of the change from the baseline over the baseline's norm.");
  return figures;
}

}  // namespace

Analysis weights() {
  return {.title = "Weights",
          .summary =
              "How large the weights of each layer and expert are, and how far they moved from the baseline: an "
              "expert can shrink although its load looks fine.",
          .refusal = [](const ModelDirectory&) { return std::string(); },
          .of_model = measure_weights,
          .model_units =
              [](const ModelConfig& config) { return static_cast<int64_t>(logical_tensor_specs(config).size()); },
          .metrics =
              [](const json& result) {
                std::map<std::string, double> metrics{
                    {"weight_norm", result["all"]["norm"]},
                    {"largest_weight", result["all"]["largest"]},
                    {"least_expert_rms_over_mean", least_expert_rms(result["layers"])}};
                if (result["all"].contains("change")) metrics["weight_change"] = result["all"]["change"];
                return metrics;
              },
          .figures = weight_figures};
}

}  // namespace moe
