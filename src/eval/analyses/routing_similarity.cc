#include "eval/analyses/routing_similarity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "common/error.h"
#include "eval/analyses.h"
#include "eval/analyses/mixture_checks.h"
#include "eval/analyses/router_figures.h"

/// routing_similarity: how alike domains are routed, which domains an expert serves, and how far the choice of one
/// layer tells that of another.
namespace moe {
namespace {

using nlohmann::json;

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares);
}

/// (values - least) / (greatest - least), zeros where these are equal.
std::vector<double> stretched(std::vector<double> values, double least) {
  const double range = *std::max_element(values.begin(), values.end()) - least;
  for (double& value : values) value = range > 0 ? (value - least) / range : 0;
  return values;
}

/// Over their sum, zeros where that is 0.
std::vector<double> shares_of(std::vector<double> values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& value : values) value = sum > 0 ? value / sum : 0;
  return values;
}

double entropy(const std::vector<int64_t>& counts, double total) {
  double sum = 0;
  for (const int64_t count : counts) {
    const double p = static_cast<double>(count) / total;
    if (p > 0) sum -= p * std::log(p);
  }
  return sum;
}

using Matrix = std::vector<std::vector<double>>;

/// measure(a, b) of all pairs of domains' loads.
Matrix of_pairs(const std::vector<std::vector<double>>& loads,
                double (*measure)(const std::vector<double>&, const std::vector<double>&)) {
  Matrix matrix(loads.size(), std::vector<double>(loads.size()));
  for (size_t a = 0; a < loads.size(); ++a) {
    for (size_t b = 0; b < loads.size(); ++b) matrix[a][b] = measure(loads[a], loads[b]);
  }
  return matrix;
}

/// Of each expert's choices, domains of equal size assumed, the share of each domain: [experts][domains].
Matrix domains_of_experts(const std::vector<std::vector<double>>& loads) {
  Matrix shares(loads.front().size(), std::vector<double>(loads.size(), 0.0));
  for (size_t e = 0; e < shares.size(); ++e) {
    double all = 0;
    for (size_t d = 0; d < loads.size(); ++d) {
      double total = 0;
      for (const double load : loads[d]) total += load;
      shares[e][d] = total > 0 ? loads[d][e] / total : 0;
      all += shares[e][d];
    }
    for (double& share : shares[e]) share = all > 0 ? share / all : 0;
  }
  return shares;
}

double mean_off_diagonal(const Matrix& matrix) {
  double sum = 0;
  size_t pairs = 0;
  for (size_t a = 0; a < matrix.size(); ++a) {
    for (size_t b = 0; b < matrix.size(); ++b) {
      if (a == b) continue;
      sum += matrix[a][b];
      ++pairs;
    }
  }
  return pairs > 0 ? sum / static_cast<double>(pairs) : std::nan("");
}

class RoutingSimilarityAnalysis final : public TextAnalysis {
 public:
  explicit RoutingSimilarityAnalysis(const TextSetting& setting)
      : domains_(setting.domains), routers_(routers_of(setting.config)) {
    for (const RouterPlace& place : routers_)
      load_.push_back(at::zeros({static_cast<int64_t>(domains_.size()), place.experts}, at::kLong));
    for (size_t a = 0; a < routers_.size(); ++a) {
      for (size_t b = 0; b < a; ++b) pairs_.push_back(at::zeros({routers_[a].experts, routers_[b].experts}, at::kLong));
    }
  }

  void see_routing(const std::vector<const Routing*>& routers, const TextPieces& pieces) override {
    std::vector<at::Tensor> ids;
    for (const Routing* router : routers) ids.push_back(router->expert_ids_TK.to(at::kCPU).contiguous());
    for (size_t r = 0; r < ids.size(); ++r) {
      const auto* const id = ids[r].const_data_ptr<int64_t>();
      auto* const load = load_[r].mutable_data_ptr<int64_t>();
      const int64_t top_k = routers_[r].top_k;
      for (const TextPiece& piece : pieces) {
        for (int64_t i = piece.first * top_k; i < piece.last * top_k; ++i)
          ++load[static_cast<int64_t>(piece.domain) * routers_[r].experts + id[i]];
      }
    }
    size_t pair = 0;
    for (size_t a = 0; a < ids.size(); ++a) {
      for (size_t b = 0; b < a; ++b) count_pairs(ids[a], ids[b], pairs_[pair++]);
    }
  }

  json result(Communicator& world) override {
    json routers = json::array();
    for (size_t r = 0; r < routers_.size(); ++r) {
      world.all_reduce_sum(load_[r], concat("load by domain, router ", r));
      routers.push_back(router_json(routers_[r], loads_of(load_[r])));
    }
    Matrix layers(routers_.size(), std::vector<double>(routers_.size(), 1.0));
    size_t pair = 0;
    for (size_t a = 0; a < routers_.size(); ++a) {
      for (size_t b = 0; b < a; ++b, ++pair) {
        world.all_reduce_sum(pairs_[pair], concat("choices of routers ", a, " and ", b));
        const auto* const counts = pairs_[pair].const_data_ptr<int64_t>();
        layers[a][b] = layers[b][a] =
            choice_similarity({counts, counts + pairs_[pair].numel()}, routers_[a].experts, routers_[b].experts);
      }
    }
    return {{"domains", domains_}, {"routers", std::move(routers)}, {"layer_similarity", layers}};
  }

 private:
  /// Of the first choices.
  static void count_pairs(const at::Tensor& a_TK, const at::Tensor& b_TK, at::Tensor& counts) {
    const auto *const a = a_TK.const_data_ptr<int64_t>(), *const b = b_TK.const_data_ptr<int64_t>();
    auto* const count = counts.mutable_data_ptr<int64_t>();
    for (int64_t t = 0; t < a_TK.size(0); ++t) ++count[a[t * a_TK.size(1)] * counts.size(1) + b[t * b_TK.size(1)]];
  }

  static Matrix loads_of(const at::Tensor& load_DE) {
    const auto* count = load_DE.const_data_ptr<int64_t>();
    Matrix loads(load_DE.size(0), std::vector<double>(load_DE.size(1)));
    for (std::vector<double>& domain : loads) {
      for (double& load : domain) load = static_cast<double>(*count++);
    }
    return loads;
  }

  json router_json(const RouterPlace& place, const Matrix& loads) const {
    const Matrix similarity = of_pairs(loads, load_similarity);
    json router = {{"layer", place.layer},
                   {"part", place.part},
                   {"experts", place.experts},
                   {"domain_difference", of_pairs(loads, load_difference)},
                   {"domain_similarity", similarity},
                   {"domain_cosine", of_pairs(loads, load_cosine)},
                   {"domain_share_difference", of_pairs(loads, load_share_difference)},
                   {"domains_of_experts", domains_of_experts(loads)}};
    if (domains_.size() > 1) router["mean_domain_similarity"] = mean_off_diagonal(similarity);
    return router;
  }

  std::vector<std::string> domains_;
  std::vector<RouterPlace> routers_;
  std::vector<at::Tensor> load_;   ///< by router [domains, experts]
  std::vector<at::Tensor> pairs_;  ///< by pair of routers, the later first
};

std::map<std::string, double> similarity_metrics(const json& result) {
  double sum = 0;
  for (const json& router : result["routers"])
    sum += router.contains("mean_domain_similarity") ? router["mean_domain_similarity"].get<double>() : 1;
  const double layers = mean_off_diagonal(result["layer_similarity"]);
  return {{"domain_similarity", sum / static_cast<double>(result["routers"].size())},
          {"layer_similarity", std::isnan(layers) ? 1 : layers}};
}

Matrix mean_matrix(const json& routers, const char* key) {
  Matrix mean = routers[0][key];
  for (size_t r = 1; r < routers.size(); ++r) {
    const Matrix more = routers[r][key];
    for (size_t a = 0; a < mean.size(); ++a) {
      for (size_t b = 0; b < mean[a].size(); ++b) mean[a][b] += more[a][b];
    }
  }
  for (std::vector<double>& row : mean) {
    for (double& value : row) value /= static_cast<double>(routers.size());
  }
  return mean;
}

void add_domain_figures(const json& result, std::vector<Figure>& figures) {
  const json& routers = result["routers"];
  const std::vector<std::string> domains = result["domains"];
  const json& last = routers.back();
  const std::string last_layer = concat("layer ", router_name(last));
  const auto add_matrix = [&](const char* name, const std::string& title, const std::string& note, Matrix values) {
    figures.push_back({.name = name,
                       .title = title,
                       .note = note,
                       .row_title = "domain",
                       .column_title = "domain",
                       .rows = domains,
                       .columns = domains,
                       .values = std::move(values)});
  };
  add_matrix("domain-difference", "Difference of domains, mean of layers",
             "Distance of the loads of two domains, each from its least, 0, to its greatest, 1: 0 is alike.",
             mean_matrix(routers, "domain_difference"));
  add_matrix("domain-difference-last", "Difference of domains, " + last_layer, "The same, of the last layer alone.",
             last["domain_difference"]);
  add_matrix("domain-similarity", "Similarity of domains, mean of layers",
             "1 less the distance of the loads of two domains, each over its greatest: 1 is alike.",
             mean_matrix(routers, "domain_similarity"));
  add_matrix("domain-cosine", "Cosine of domains, mean of layers",
             "Cosine of the angle between the loads of two domains: 1 is alike.",
             mean_matrix(routers, "domain_cosine"));
  add_matrix("domain-share-difference", "Difference of shares, mean of layers",
             "Distance of the loads of two domains, each over its sum: 0 is alike.",
             mean_matrix(routers, "domain_share_difference"));
  Figure lines = router_lines(routers, {"mean_domain_similarity"},
                              [](const json& router, const std::string& name) { return router[name].get<double>(); });
  lines.name = "domain-similarity-layers";
  lines.title = "Similarity of domains by layer";
  lines.note = "Mean over the pairs of domains: falls where a layer tells domains apart.";
  lines.rows.front() = "similarity of two domains";
  figures.push_back(std::move(lines));
  Figure shares{.name = "domains-of-experts",
                .title = "Domains of the experts, " + last_layer,
                .note = "Of the choices of an expert the share of each domain, as if all were equally long.",
                .scale = Figure::Scale::kShare,
                .row_title = "domain",
                .column_title = "expert",
                .rows = domains,
                .values = Matrix(domains.size())};
  for (const json& expert : last["domains_of_experts"]) {
    shares.columns.push_back(std::to_string(shares.columns.size()));
    for (size_t d = 0; d < domains.size(); ++d) shares.values[d].push_back(expert[d].get<double>());
  }
  figures.push_back(std::move(shares));
}

std::vector<Figure> similarity_figures(const json& result) {
  std::vector<Figure> figures;
  if (result["domains"].size() > 1) add_domain_figures(result, figures);
  if (result["routers"].size() < 2) return figures;
  Figure layers{.name = "layer-similarity",
                .title = "Similarity of layers",
                .note =
                    "How far a token's first choice in one layer tells that in another (mutual information over the "
                    "mean entropy): 0 nothing, 1 all.",
                .scale = Figure::Scale::kShare,
                .row_title = "layer",
                .column_title = "layer",
                .values = result["layer_similarity"]};
  for (const json& router : result["routers"]) layers.rows.push_back(router_name(router));
  layers.columns = layers.rows;
  figures.push_back(std::move(layers));
  return figures;
}

}  // namespace

double load_difference(const std::vector<double>& a, const std::vector<double>& b) {
  return distance(stretched(a, *std::min_element(a.begin(), a.end())),
                  stretched(b, *std::min_element(b.begin(), b.end())));
}

double load_similarity(const std::vector<double>& a, const std::vector<double>& b) {
  return 1 - distance(stretched(a, 0), stretched(b, 0));
}

double load_cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double product = 0, squares_a = 0, squares_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    squares_a += a[i] * a[i];
    squares_b += b[i] * b[i];
  }
  return squares_a > 0 && squares_b > 0 ? product / std::sqrt(squares_a * squares_b) : 0;
}

double load_share_difference(const std::vector<double>& a, const std::vector<double>& b) {
  return distance(shares_of(a), shares_of(b));
}

double choice_similarity(const std::vector<int64_t>& pairs, int64_t rows, int64_t columns) {
  std::vector<int64_t> by_row(rows, 0), by_column(columns, 0);
  int64_t total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      by_row[r] += pairs[r * columns + c];
      by_column[c] += pairs[r * columns + c];
      total += pairs[r * columns + c];
    }
  }
  if (total == 0) return 0;
  const auto count = static_cast<double>(total);
  const double of_rows = entropy(by_row, count), of_columns = entropy(by_column, count);
  if (of_rows <= 0 || of_columns <= 0) return 0;
  const double shared = of_rows + of_columns - entropy(pairs, count);
  return std::clamp(shared / std::sqrt(of_rows * of_columns), 0.0, 1.0);
}

Analysis routing_similarity() {
  return {.title = "Routing similarity",
          .summary =
              "How alike the domains are routed, which domains an expert serves, and how far the choice in one "
              "layer tells that in another.",
          .refusal = needs_a_router,
          .of_text = [](const TextSetting& setting) { return std::make_unique<RoutingSimilarityAnalysis>(setting); },
          .metrics = similarity_metrics,
          .figures = similarity_figures};
}

}  // namespace moe
