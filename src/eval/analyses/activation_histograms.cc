#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "eval/analyses.h"
#include "eval/histogram.h"

/// activation_histograms: how large what the neurons of FFNs give is, what their gates let through, and what FFNs read.
/// Source: LLaMA-MoE (arXiv:2406.16554) and LLaMA-MoE v2 (arXiv:2411.15708), their bins.
namespace moe {
namespace {

using nlohmann::json;

/// Of one value of each neuron, its size and its square.
struct NeuronHistograms {
  Histogram plain{-0.5, 0.5, 1000}, absolute{0, 0.5, 1000}, squared{0, 0.1, 1000};

  void add(double value) {
    plain.add(value);
    absolute.add(std::abs(value));
    squared.add(value * value);
  }
  json to_json() const {
    return {{"plain", plain.to_json()}, {"absolute", absolute.to_json()}, {"squared", squared.to_json()}};
  }
};

/// Of what the neurons of a layer give, h, of silu of their gates, and of what its FFN reads by domain.
struct LayerHistograms {
  NeuronHistograms neurons, gates;
  std::vector<Histogram> inputs;
};

/// Bins of |h| that count as near zero: below 0.01.
constexpr size_t kNearZeroBins = 20;

class ActivationHistogramsAnalysis final : public TextAnalysis {
 public:
  explicit ActivationHistogramsAnalysis(const TextSetting& setting)
      : config_(setting.config), domains_(setting.domains), layers_(setting.config.num_layers) {
    for (LayerHistograms& layer : layers_) layer.inputs.assign(domains_.size(), Histogram(-2, 2, 100));
  }

  void see_stream(int64_t layer, LayerPoint point, const at::Tensor& values, const TextPieces& pieces) override {
    if (point == LayerPoint::kFfnGates) add_gates(layers_[layer], values, values.size(1));
    if (point == LayerPoint::kFfnActivations) add_activations(layers_[layer], values, values.size(1));
    if (point != LayerPoint::kFfnInput) return;
    const at::Tensor input_TD = host_rows(values);
    const int64_t width = input_TD.size(1);
    for (const TextPiece& piece : pieces) {
      Histogram& inputs = layers_[layer].inputs[piece.domain];
      const auto* const value = input_TD.const_data_ptr<double>();
      for (int64_t i = piece.first * width; i < piece.last * width; ++i) inputs.add(value[i]);
    }
  }

  void see_mixture(const MixtureView& view, const TextPieces& /*pieces*/) override {
    LayerHistograms& layer = layers_[view.layer];
    const ExpertActivations chosen = chosen_expert_activations(view);
    const at::Tensor rows_per_expert = chosen.rows_per_expert.to(at::kCPU);
    int64_t first = 0;
    for (int64_t e = 0; e < chosen.experts.count; ++e) {
      const auto rows = rows_per_expert[e].item<int64_t>();
      const int64_t width = config_.moe->expert_width(view.layer, chosen.experts.first + e);
      if (chosen.gates_RI.defined()) add_gates(layer, chosen.gates_RI.narrow(0, first, rows), width);
      add_activations(layer, chosen.rows_RI.narrow(0, first, rows), width);
      first += rows;
    }
    if (!view.weights.shared) return;
    const int64_t width = config_.moe->shared_widths.at(view.layer);
    const at::Tensor activations_TI = neuron_activations(
        *view.weights.shared, view.x_TD, [&](const at::Tensor& gates_TI) { add_gates(layer, gates_TI, width); });
    add_activations(layer, activations_TI, width);
  }

  json result(Communicator& world) override {
    std::vector<Histogram*> histograms;
    for (LayerHistograms& layer : layers_) {
      for (NeuronHistograms* const of_neurons : {&layer.neurons, &layer.gates})
        histograms.insert(histograms.end(), {&of_neurons->plain, &of_neurons->absolute, &of_neurons->squared});
      for (Histogram& of_domain : layer.inputs) histograms.push_back(&of_domain);
    }
    Histogram::sum_over_ranks(histograms, world);
    json layers = json::array();
    for (size_t l = 0; l < layers_.size(); ++l) {
      const LayerHistograms& layer = layers_[l];
      json inputs = json::object();
      for (size_t d = 0; d < domains_.size(); ++d) inputs[domains_[d]] = layer.inputs[d].to_json();
      layers.push_back({{"layer", l},
                        {"part", "ffn"},
                        {"neurons", layer.neurons.to_json()},
                        {"inputs", {{"domains", std::move(inputs)}}}});
      if (config_.is_gated) layers.back()["gates"] = layer.gates.to_json();
    }
    return {{"domains", domains_}, {"layers", std::move(layers)}};
  }

 private:
  /// Of the first `width` neurons of each row.
  static void add_activations(LayerHistograms& layer, const at::Tensor& values_RI, int64_t width) {
    const at::Tensor h_RI = host_rows(values_RI.narrow(1, 0, width));
    const auto* const value = h_RI.const_data_ptr<double>();
    for (int64_t i = 0; i < h_RI.numel(); ++i) layer.neurons.add(value[i]);
  }

  /// The same of silu of their gates: one by one, so that a value falls into one bin wherever it stands among the rows.
  static void add_gates(LayerHistograms& layer, const at::Tensor& values_RI, int64_t width) {
    const at::Tensor gates_RI = host_rows(values_RI.narrow(1, 0, width));
    const auto* const value = gates_RI.const_data_ptr<double>();
    for (int64_t i = 0; i < gates_RI.numel(); ++i) layer.gates.add(value[i] / (1 + std::exp(-value[i])));
  }

  ModelConfig config_;
  std::vector<std::string> domains_;
  std::vector<LayerHistograms> layers_;
};

double total_of(const json& histogram) {
  double total = histogram["below"].get<double>() + histogram["above"].get<double>();
  for (const json& count : histogram["counts"]) total += count.get<double>();
  return total;
}

std::map<std::string, double> histogram_metrics(const json& result) {
  double near_zero = 0;
  for (const json& layer : result["layers"]) {
    const json& histogram = layer["neurons"]["absolute"];
    double count = 0;
    for (size_t bin = 0; bin < kNearZeroBins; ++bin) count += histogram["counts"][bin].get<double>();
    near_zero += count / total_of(histogram);
  }
  return {{"near_zero_activations", near_zero / static_cast<double>(result["layers"].size())}};
}

/// A line of a histogram: the share of all values in each bin.
void add_line(Figure& figure, const std::string& name, const json& histogram) {
  const double total = total_of(histogram), least = histogram["least"], greatest = histogram["greatest"];
  const auto bins = static_cast<double>(histogram["counts"].size());
  std::vector<double> shares;
  figure.columns.clear();
  for (const json& count : histogram["counts"]) {
    figure.columns.push_back(concat(least + (greatest - least) * (static_cast<double>(shares.size()) + 0.5) / bins));
    shares.push_back(total > 0 ? count.get<double>() / total : std::nan(""));
  }
  figure.rows.push_back(name);
  figure.values.push_back(std::move(shares));
}

/// At most six layers, the first and the last among them.
std::vector<size_t> shown_layers(size_t layers) {
  const size_t most = std::min<size_t>(6, layers);
  std::vector<size_t> shown;
  for (size_t i = 0; i < most; ++i) shown.push_back(most == 1 ? 0 : i * (layers - 1) / (most - 1));
  return shown;
}

std::vector<Figure> histogram_figures(const json& result) {
  const json& layers = result["layers"];
  const std::vector<size_t> shown = shown_layers(layers.size());
  std::vector<Figure> figures;
  struct Kind {
    const char *values, *key, *name, *title, *axis;
  };
  for (const Kind& kind : {Kind{"neurons", "plain", "neurons", "Activations of neurons", "h"},
                           Kind{"neurons", "absolute", "neurons-absolute", "Absolute activations of neurons", "|h|"},
                           Kind{"neurons", "squared", "neurons-squared", "Squared activations of neurons", "h²"},
                           Kind{"gates", "plain", "gates", "Gates of neurons", "silu(g)"},
                           Kind{"gates", "absolute", "gates-absolute", "Absolute gates of neurons", "|silu(g)|"},
                           Kind{"gates", "squared", "gates-squared", "Squared gates of neurons", "silu(g)²"}}) {
    if (!layers.front().contains(kind.values)) continue;
    const bool is_of_gates = std::string(kind.values) == "gates";
    Figure figure{.name = kind.name,
                  .title = kind.title,
                  .note = concat("Share of ", is_of_gates ? "silu of what the gates" : "what the neurons",
                                 " of an FFN give, of chosen experts alone, in each of 1000 bins."),
                  .form = Figure::Form::kLines,
                  .is_log = true,
                  .column_title = kind.axis};
    for (const size_t l : shown) add_line(figure, concat("layer ", l), layers[l][kind.values][kind.key]);
    figures.push_back(std::move(figure));
  }
  for (const size_t l : shown) {
    Figure figure{.name = concat("inputs-", l),
                  .title = concat("What the FFN reads, layer ", l),
                  .note = "Share of the values of each domain in each of 100 bins.",
                  .form = Figure::Form::kLines,
                  .column_title = "x"};
    for (const std::string domain : result["domains"]) add_line(figure, domain, layers[l]["inputs"]["domains"][domain]);
    figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace

Analysis activation_histograms() {
  return {.title = "Activation histograms",
          .summary =
              "How large what the neurons of each FFN give is, and what their gates let through, which tell how sparse "
              "they are, and what the FFN reads, by domain.",
          .refusal = [](const ModelDirectory&) { return std::string(); },
          .of_text = [](const TextSetting& setting) { return std::make_unique<ActivationHistogramsAnalysis>(setting); },
          .metrics = histogram_metrics,
          .figures = histogram_figures};
}

}  // namespace moe
