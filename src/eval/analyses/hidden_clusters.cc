#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "eval/analyses.h"
#include "eval/analyses/mixture_checks.h"
#include "eval/analyses/router_figures.h"
#include "eval/text_sums.h"

/// hidden_clusters: what FFN routers read, by the nearest of the router's rows and by the largest product with one,
/// beside the load.
namespace moe {
namespace {

using nlohmann::json;

/// Where the sums of one mixture lie among those of a row.
struct ClusterPlace {
  int64_t layer = 0;
  int64_t experts = 0;
  size_t begin = 0;

  size_t nearest() const { return begin; }
  size_t largest() const { return begin + static_cast<size_t>(experts); }
  size_t load() const { return begin + 2 * static_cast<size_t>(experts); }
  size_t tokens() const { return begin + 3 * static_cast<size_t>(experts); }
  size_t agreeing() const { return tokens() + 1; }
  size_t end() const { return tokens() + 2; }
};

std::string needs_rows(const ModelDirectory& model) {
  if (std::string reason = needs_ffn_experts(model); !reason.empty()) return reason;
  const std::string& router = model.config().moe->router;
  return router == "linear" ? "" : concat("its router is of kind ", router, ": only a linear one has a row an expert");
}

class HiddenClustersAnalysis final : public TextAnalysis {
 public:
  explicit HiddenClustersAnalysis(const TextSetting& setting)
      : domains_(setting.domains), places_(layout(setting.config)), sums_(domains_.size(), end_of(places_)) {}

  void see_mixture(const MixtureView& view, const TextPieces& pieces) override {
    const ClusterPlace& at = places_.at(view.layer);
    const at::Tensor products_TE = host_rows(view.routing.logits_TE),
                     ids_TK = view.routing.expert_ids_TK.to(at::kCPU).contiguous();
    const std::vector<double> squares = squared_norms(host_rows(view.weights.router.weight_ED));
    const int64_t top_k = ids_TK.size(1);
    for (const TextPiece& piece : pieces) {
      double* const sums = sums_.of(piece.row, piece.domain);
      sums[at.tokens()] += static_cast<double>(piece.last - piece.first);
      for (int64_t t = piece.first; t < piece.last; ++t) {
        const double* const product = products_TE.const_data_ptr<double>() + t * at.experts;
        // |x - r|^2 less |x|^2; the lowest expert wins a tie.
        int64_t nearest = 0, largest = 0;
        for (int64_t e = 1; e < at.experts; ++e) {
          if (squares[e] - 2 * product[e] < squares[nearest] - 2 * product[nearest]) nearest = e;
          if (product[e] > product[largest]) largest = e;
        }
        sums[at.nearest() + nearest] += 1;
        sums[at.largest() + largest] += 1;
        sums[at.agreeing()] += nearest == largest ? 1 : 0;
        for (int64_t k = 0; k < top_k; ++k) sums[at.load() + ids_TK.const_data_ptr<int64_t>()[t * top_k + k]] += 1;
      }
    }
  }

  json result(Communicator& world) override {
    const std::vector<std::vector<double>> by_domain = sums_.total(world, "hidden clusters");
    const std::vector<double> all = over_domains(by_domain);
    json layers = json::array();
    for (const auto& [number, at] : places_) {
      json layer = {{"layer", number}, {"part", "ffn"}, {"experts", at.experts}, {"all", statistics(at, all)}};
      for (size_t d = 0; d < domains_.size(); ++d) layer["domains"][domains_[d]] = statistics(at, by_domain[d]);
      layers.push_back(std::move(layer));
    }
    return {{"domains", domains_}, {"layers", std::move(layers)}};
  }

 private:
  using Places = std::map<int64_t, ClusterPlace>;  ///< by layer

  static Places layout(const ModelConfig& config) {
    Places places;
    size_t begin = 0;
    for (const int64_t layer : config.moe->mixture_layers()) {
      places[layer] = {layer, config.moe->num_experts, begin};
      begin = places[layer].end();
    }
    return places;
  }
  static size_t end_of(const Places& places) { return places.rbegin()->second.end(); }

  static std::vector<double> squared_norms(const at::Tensor& rows_ED) {
    std::vector<double> norms(rows_ED.size(0), 0.0);
    const auto* value = rows_ED.const_data_ptr<double>();
    for (double& norm : norms) {
      for (int64_t d = 0; d < rows_ED.size(1); ++d, ++value) norm += *value * *value;
    }
    return norms;
  }

  static json statistics(const ClusterPlace& at, const std::vector<double>& sums) {
    const auto counts = [&](size_t begin) {
      const auto first = sums.begin() + static_cast<std::ptrdiff_t>(begin);
      return std::vector<int64_t>(first, first + at.experts);
    };
    const double tokens = sums[at.tokens()];
    return {{"tokens", static_cast<int64_t>(tokens)},
            {"nearest_row", counts(at.nearest())},
            {"largest_product", counts(at.largest())},
            {"load", counts(at.load())},
            {"agreement", tokens > 0 ? json(sums[at.agreeing()] / tokens) : json()}};
  }

  std::vector<std::string> domains_;
  Places places_;
  TextSums sums_;
};

std::map<std::string, double> cluster_metrics(const json& result) {
  double agreement = 0, largest = 0;
  for (const json& layer : result["layers"]) {
    const json& all = layer["all"];
    agreement += all["agreement"].is_number() ? all["agreement"].get<double>() : std::nan("");
    for (const double size : over_mean(all["nearest_row"].get<std::vector<double>>()))
      largest = std::max(largest, size);
  }
  return {{"nearest_row_agreement", agreement / static_cast<double>(result["layers"].size())},
          {"largest_cluster_over_mean", largest}};
}

std::vector<Figure> cluster_figures(const json& result) {
  std::vector<Figure> figures;
  struct Map {
    const char *key, *name, *title, *note;
  };
  for (const Map& map : {Map{"nearest_row", "nearest-row", "Hidden states by the nearest router row",
                             "Sizes of the clusters that the router's rows are the centres of, by distance."},
                         Map{"largest_product", "largest-product", "Hidden states by the largest product",
                             "Sizes by the product with the router's rows, which is what the router sees: apart from "
                             "the first where the rows differ in length."},
                         Map{"load", "load", "Load", "All top-k choices, beside the clusters."}}) {
    Figure figure = expert_heatmap(result["layers"], [&](const json& layer) {
      return over_mean(layer["all"][map.key].get<std::vector<double>>());
    });
    figure.name = map.name;
    figure.title = map.title;
    figure.note = map.note;
    figure.scale = Figure::Scale::kEvenShare;
    figure.unit = "× an even share";
    figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace

Analysis hidden_clusters() {
  return {.title = "Hidden clusters",
          .summary =
              "What the routers read, grouped around the rows of the router: a router made by balanced clustering "
              "need not route evenly, since it compares products and not distances.",
          .refusal = needs_rows,
          .of_text = [](const TextSetting& setting) { return std::make_unique<HiddenClustersAnalysis>(setting); },
          .metrics = cluster_metrics,
          .figures = cluster_figures};
}

}  // namespace moe
