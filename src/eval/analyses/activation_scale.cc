#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/error.h"
#include "eval/analyses.h"
#include "eval/analyses/router_figures.h"
#include "eval/text_sums.h"

/// activation_scale: how large what each expert gives is, its share of the layer's output, and the output of each FFN
/// beside the stream that it is added to.
namespace moe {
namespace {

using nlohmann::json;

/// Where the sums of one layer lie among those of a row.
struct LayerPlace {
  int64_t layer = 0;
  int64_t experts = 0;  ///< 0: a dense FFN
  bool has_shared = false;
  size_t begin = 0;

  size_t tokens() const { return begin; }
  size_t output() const { return begin + 1; }  ///< L1, L2
  size_t stream() const { return begin + 3; }  ///< L1, L2
  size_t shared() const { return begin + 5; }  ///< L2 of what it gives, and of what reaches the output of it
  size_t expert(int64_t e) const { return begin + 7 + 4 * static_cast<size_t>(e); }
  size_t end() const { return expert(experts); }
};
/// Sums of an expert: tokens, L1 and L2 of its output, L2 of what reaches the layer's output of it.
constexpr size_t kTokens = 0, kL1 = 1, kL2 = 2, kGiven = 3;

struct Norms {
  double l1 = 0, l2 = 0;
};

/// One by one: the same bits wherever the row stands.
Norms norms_of(const double* values, int64_t count) {
  Norms norms;
  for (int64_t i = 0; i < count; ++i) {
    norms.l1 += std::abs(values[i]);
    norms.l2 += values[i] * values[i];
  }
  norms.l2 = std::sqrt(norms.l2);
  return norms;
}

class ActivationScaleAnalysis final : public TextAnalysis {
 public:
  explicit ActivationScaleAnalysis(const TextSetting& setting)
      : domains_(setting.domains), layers_(layout(setting.config)), sums_(domains_.size(), layers_.back().end()) {}

  void see_stream(int64_t layer, LayerPoint point, const at::Tensor& values, const TextPieces& pieces) override {
    if (point == LayerPoint::kAttended) attended_TD_ = host_rows(values);
    if (point != LayerPoint::kOutput) return;
    const at::Tensor output_TD = host_rows(values) - attended_TD_;
    const int64_t width = output_TD.size(1);
    const LayerPlace& at = layers_[layer];
    for (const TextPiece& piece : pieces) {
      double* const sums = sums_.of(piece.row, piece.domain);
      sums[at.tokens()] += static_cast<double>(piece.last - piece.first);
      for (int64_t t = piece.first; t < piece.last; ++t) {
        const Norms output = norms_of(output_TD.const_data_ptr<double>() + t * width, width),
                    stream = norms_of(attended_TD_.const_data_ptr<double>() + t * width, width);
        sums[at.output()] += output.l1;
        sums[at.output() + 1] += output.l2;
        sums[at.stream()] += stream.l1;
        sums[at.stream() + 1] += stream.l2;
      }
    }
  }

  void see_mixture(const MixtureView& view, const TextPieces& pieces) override {
    const at::Tensor outputs_TKD = host_rows(chosen_expert_outputs(view)),
                     ids_TK = view.routing.expert_ids_TK.to(at::kCPU).contiguous(),
                     weights_TK = host_rows(view.routing.weights_TK);
    const MoeWeights& weights = view.weights;
    at::Tensor shared_TD, shared_given_TD;
    if (weights.shared) {
      shared_TD = host_rows(feed_forward(*weights.shared, view.x_TD));
      shared_given_TD =
          host_rows(shared_output(*weights.shared, weights.shared_gate_RD, view.options.shared_gate, view.x_TD));
    }
    const int64_t width = outputs_TKD.size(2), top_k = outputs_TKD.size(1);
    const LayerPlace& at = layers_[view.layer];
    for (const TextPiece& piece : pieces) {
      double* const sums = sums_.of(piece.row, piece.domain);
      for (int64_t slot = piece.first * top_k; slot < piece.last * top_k; ++slot) {
        const Norms given = norms_of(outputs_TKD.const_data_ptr<double>() + slot * width, width);
        double* const expert = sums + at.expert(ids_TK.const_data_ptr<int64_t>()[slot]);
        expert[kTokens] += 1;
        expert[kL1] += given.l1;
        expert[kL2] += given.l2;
        expert[kGiven] += given.l2 * std::abs(weights_TK.const_data_ptr<double>()[slot] * view.options.output_scale);
      }
      for (int64_t t = piece.first; shared_TD.defined() && t < piece.last; ++t) {
        sums[at.shared()] += norms_of(shared_TD.const_data_ptr<double>() + t * width, width).l2;
        sums[at.shared() + 1] += norms_of(shared_given_TD.const_data_ptr<double>() + t * width, width).l2;
      }
    }
  }

  json result(Communicator& world) override {
    const std::vector<std::vector<double>> by_domain = sums_.total(world, "activation scale");
    const std::vector<double> all = over_domains(by_domain);
    json layers = json::array();
    for (const LayerPlace& at : layers_) {
      json layer = {{"layer", at.layer}, {"part", "ffn"}, {"experts", at.experts}, {"all", statistics(at, all)}};
      for (size_t d = 0; d < domains_.size(); ++d) layer["domains"][domains_[d]] = statistics(at, by_domain[d]);
      layers.push_back(std::move(layer));
    }
    return {{"domains", domains_}, {"layers", std::move(layers)}};
  }

 private:
  static std::vector<LayerPlace> layout(const ModelConfig& config) {
    std::vector<LayerPlace> layers;
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      const bool is_mixture = config.is_mixture(layer);
      layers.push_back({.layer = layer,
                        .experts = is_mixture ? config.moe->num_experts : 0,
                        .has_shared = is_mixture && config.moe->shared_widths.at(layer) > 0,
                        .begin = layers.empty() ? 0 : layers.back().end()});
    }
    return layers;
  }

  /// Of one domain, or of all. Null where there is nothing to take a mean of.
  static json statistics(const LayerPlace& at, const std::vector<double>& sums) {
    const double tokens = sums[at.tokens()];
    const auto mean = [](double sum, double count) { return count > 0 ? json(sum / count) : json(); };
    json result = {
        {"tokens", static_cast<int64_t>(tokens)},           {"output_l1", mean(sums[at.output()], tokens)},
        {"output_l2", mean(sums[at.output() + 1], tokens)}, {"stream_l1", mean(sums[at.stream()], tokens)},
        {"stream_l2", mean(sums[at.stream() + 1], tokens)}, {"gap", mean(sums[at.stream()], sums[at.output()])}};
    if (at.experts == 0) return result;
    double given = sums[at.shared() + 1], chosen = 0;
    for (int64_t e = 0; e < at.experts; ++e) {
      given += sums[at.expert(e) + kGiven];
      chosen += sums[at.expert(e) + kTokens];
    }
    for (int64_t e = 0; e < at.experts; ++e) {
      const double* const of = sums.data() + at.expert(e);
      result["experts"].push_back({{"tokens", static_cast<int64_t>(of[kTokens])},
                                   {"l1", mean(of[kL1], of[kTokens])},
                                   {"l2", mean(of[kL2], of[kTokens])},
                                   {"load_share", mean(of[kTokens], chosen)},
                                   {"output_share", mean(of[kGiven], given)}});
    }
    if (at.has_shared)
      result["shared_expert"] = {{"l2", mean(sums[at.shared()], tokens)},
                                 {"output_share", mean(sums[at.shared() + 1], given)}};
    return result;
  }

  std::vector<std::string> domains_;
  std::vector<LayerPlace> layers_;
  TextSums sums_;
  at::Tensor attended_TD_;  ///< of the layer that the pass is in
};

std::vector<double> of_experts(const json& layer, const char* key) {
  std::vector<double> values;
  for (const json& expert : layer["all"].value("experts", json::array()))
    values.push_back(expert[key].is_number() ? expert[key].get<double>() : 0);
  return values;
}

std::map<std::string, double> scale_metrics(const json& result) {
  double least = 1, greatest_gap = 0;
  for (const json& layer : result["layers"]) {
    for (const double share : over_mean(of_experts(layer, "output_share"))) least = std::min(least, share);
    const json& gap = layer["all"]["gap"];
    greatest_gap = std::max(greatest_gap, gap.is_number() ? gap.get<double>() : std::nan(""));
  }
  return {{"least_output_share_over_mean", least}, {"greatest_residual_gap", greatest_gap}};
}

std::vector<Figure> scale_figures(const json& result) {
  std::vector<Figure> figures;
  json mixtures = json::array();
  for (const json& layer : result["layers"]) {
    if (layer["experts"] > 0) mixtures.push_back(layer);
  }
  const auto add = [&](Figure figure, const std::string& name, const std::string& title, const std::string& note) {
    figure.name = name;
    figure.title = title;
    figure.note = note;
    figures.push_back(std::move(figure));
  };
  if (!mixtures.empty()) {
    Figure shares =
        expert_heatmap(mixtures, [](const json& layer) { return over_mean(of_experts(layer, "output_share")); });
    shares.scale = Figure::Scale::kEvenShare;
    shares.unit = "× the mean of its layer";
    add(std::move(shares), "output-share", "Share of the layer's output",
        "Norm of what an expert adds, weight and scale included, summed over its tokens, over the mean of the layer: "
        "near 0 the expert is dead, whatever its load.");
    Figure scale = expert_heatmap(mixtures, [](const json& layer) { return over_mean(of_experts(layer, "l2")); });
    scale.scale = Figure::Scale::kEvenShare;
    scale.unit = "× the mean of its layer";
    add(std::move(scale), "expert-scale", "Activation scale of the experts",
        "Mean norm of what an expert gives for a token, without weight and scale, over the mean of the layer.");
  }
  const std::vector<std::string> domains = result["domains"];
  add(router_lines(result["layers"], domains,
                   [](const json& layer, const std::string& domain) {
                     const json& gap = layer["domains"][domain]["gap"];
                     return gap.is_number() ? gap.get<double>() : std::nan("");
                   }),
      "gap", "Residual stream over FFN output",
      "Mean absolute sum of the stream that the FFN's output is added to over that of the output.");
  return figures;
}

}  // namespace

Analysis activation_scale() {
  return {.title = "Activation scale",
          .summary =
              "How large what each expert gives is and how much of the layer's output it makes: an expert can be "
              "dead although its load looks fine. Beside it, the stream over the output of the FFN.",
          .refusal = [](const ModelDirectory&) { return std::string(); },
          .of_text = [](const TextSetting& setting) { return std::make_unique<ActivationScaleAnalysis>(setting); },
          .metrics = scale_metrics,
          .figures = scale_figures};
}

}  // namespace moe
