#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "common/error.h"
#include "eval/analyses.h"
#include "eval/analyses/mixture_checks.h"
#include "eval/analyses/routing_figures.h"
#include "eval/text_sums.h"

/// routing: load, probability and weight of each expert, and how sure, even and steady routers are, by domain.
namespace moe {
namespace {

using nlohmann::json;

/// Tokens of a window of local routing consistency.
constexpr int64_t kWindow = 16;

/// Where the sums of one router lie among those of a row.
struct RouterSums {
  RouterPlace place;
  bool sees_all_tokens = true;  ///< whatever they chose: what an FFN has no use for
  size_t begin = 0;

  size_t load() const { return begin; }
  size_t probability() const { return begin + static_cast<size_t>(place.experts); }
  size_t weight() const { return begin + 2 * static_cast<size_t>(place.experts); }
  size_t entropy() const { return begin + 3 * static_cast<size_t>(place.experts); }
  size_t margin() const { return entropy() + 1; }
  size_t tokens() const { return entropy() + 2; }
  size_t window_hits() const { return entropy() + 3; }
  size_t window_choices() const { return entropy() + 4; }
  size_t agreeing() const { return entropy() + 5; }
  size_t visible() const { return entropy() + 6; }
  size_t end() const { return entropy() + 7; }
};

/// A piece of text in one router: [E] or [K] of each token, row-major.
struct RoutedPiece {
  const int64_t* ids_TK;
  const double* weights_TK;
  const double* probabilities_TE;
  int64_t tokens;
};

void add_tokens(const RouterSums& at, const RoutedPiece& piece, double* sums) {
  const int64_t experts = at.place.experts, top_k = at.place.top_k;
  for (int64_t t = 0; t < piece.tokens; ++t) {
    const double* p = piece.probabilities_TE + t * experts;
    double entropy = 0, first = 0, second = 0;
    for (int64_t e = 0; e < experts; ++e) {
      sums[at.probability() + e] += p[e];
      if (p[e] > 0) entropy -= p[e] * std::log(p[e]);
      if (p[e] > first) {
        second = first;
        first = p[e];
      } else {
        second = std::max(second, p[e]);
      }
    }
    sums[at.entropy()] += entropy;
    sums[at.margin()] += first - second;
    for (int64_t k = 0; k < top_k; ++k) {
      const int64_t expert = piece.ids_TK[t * top_k + k];
      sums[at.load() + expert] += 1;
      sums[at.weight() + expert] += piece.weights_TK[t * top_k + k];
    }
  }
  sums[at.tokens()] += static_cast<double>(piece.tokens);
}

/// Of each window of the piece: its choices, and how many of them are of the top_k experts that it chooses most.
void add_windows(const RouterSums& at, const RoutedPiece& piece, double* sums) {
  const int64_t top_k = at.place.top_k;
  for (int64_t first = 0; first + kWindow <= piece.tokens; first += kWindow) {
    std::vector<int64_t> counts(at.place.experts, 0);
    for (int64_t i = first * top_k; i < (first + kWindow) * top_k; ++i) ++counts[piece.ids_TK[i]];
    std::partial_sort(counts.begin(), counts.begin() + top_k, counts.end(), std::greater<>());
    sums[at.window_hits()] += static_cast<double>(std::accumulate(counts.begin(), counts.begin() + top_k, int64_t{0}));
    sums[at.window_choices()] += static_cast<double>(kWindow * top_k);
  }
}

/// Of attention, the share of the tokens up to each one that chose its expert too, over all tokens and choices.
void add_visible_keys(const RouterSums& at, const RoutedPiece& piece, double* sums) {
  const int64_t top_k = at.place.top_k;
  std::vector<int64_t> seen(at.place.experts, 0);
  for (int64_t i = 0; i < piece.tokens * top_k; ++i) {
    const int64_t keys = i / top_k + 1;
    sums[at.visible()] +=
        static_cast<double>(at.sees_all_tokens ? keys : ++seen[piece.ids_TK[i]]) / static_cast<double>(keys);
  }
}

/// Adds 1 to each pair of experts of a token, both ways, and of an expert with itself.
void count_pairs_of_tokens(const RoutedPiece& piece, int64_t top_k, at::Tensor& pairs_EE) {
  auto* const count = pairs_EE.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < piece.tokens; ++t) {
    const int64_t* const chosen = piece.ids_TK + t * top_k;
    for (int64_t a = 0; a < top_k; ++a) {
      for (int64_t b = 0; b < top_k; ++b) ++count[chosen[a] * pairs_EE.size(1) + chosen[b]];
    }
  }
}

/// Choices of the piece that are among those of the same tokens in `model_ids`, so many a token.
void add_agreement(const RouterSums& at, const RoutedPiece& piece, const int16_t* model_ids, int64_t model_top_k,
                   double* sums) {
  for (int64_t i = 0; i < piece.tokens * at.place.top_k; ++i) {
    const int16_t* const chosen = model_ids + i / at.place.top_k * model_top_k;
    sums[at.agreeing()] += std::find(chosen, chosen + model_top_k, piece.ids_TK[i]) != chosen + model_top_k ? 1 : 0;
  }
}

std::vector<double> part(const std::vector<double>& sums, size_t begin, int64_t count) {
  return {sums.begin() + static_cast<std::ptrdiff_t>(begin), sums.begin() + static_cast<std::ptrdiff_t>(begin) + count};
}

/// Unbiased variance over (squared mean + 1e-10), 0 of one expert: a term of importance_load_loss().
double squared_variation(const std::vector<double>& sums) {
  const auto experts = static_cast<double>(sums.size());
  if (sums.size() < 2) return 0;
  const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / experts;
  double squares = 0;
  for (const double sum : sums) squares += (sum - mean) * (sum - mean);
  return squares / (experts - 1) / (mean * mean + 1e-10);
}

/// Of one domain, or of all. Null where there is nothing to take a mean of.
json routing_statistics(const RouterSums& at, const std::vector<double>& sums) {
  const int64_t experts = at.place.experts;
  const double tokens = sums[at.tokens()], even = tokens * static_cast<double>(at.place.top_k) / experts;
  const std::vector<double> load = part(sums, at.load(), experts);
  const auto mean = [](double sum, double count) { return count > 0 ? json(sum / count) : json(); };
  json probability = json::array();
  for (const double sum : part(sums, at.probability(), experts)) probability.push_back(mean(sum, tokens));
  double squares = 0, balance = 0;
  for (int64_t e = 0; e < experts; ++e) {
    squares += (load[e] - even) * (load[e] - even);
    balance += load[e] * sums[at.probability() + e];
  }
  const std::vector<double> importance = part(sums, at.weight(), experts);
  json result = {{"tokens", static_cast<int64_t>(tokens)},
                 {"load", std::vector<int64_t>(load.begin(), load.end())},
                 {"probability", probability},
                 {"weight_sum", importance},
                 {"load_max_over_mean", mean(*std::max_element(load.begin(), load.end()), even)},
                 {"load_min_over_mean", mean(*std::min_element(load.begin(), load.end()), even)},
                 {"load_variation", mean(std::sqrt(squares / experts), even)},
                 {"entropy", mean(sums[at.entropy()], tokens)},
                 {"margin", mean(sums[at.margin()], tokens)},
                 {"local_consistency", mean(sums[at.window_hits()], sums[at.window_choices()])},
                 // E sum f P with f = load / (K tokens) and P = probability / tokens, as balance_loss() has it.
                 {"balance_loss", mean(balance, even * tokens)},
                 {"importance_loss", squared_variation(importance)},
                 {"load_loss", squared_variation(load)}};
  if (at.place.part == "attention")
    result["visible_keys"] = mean(sums[at.visible()], tokens * static_cast<double>(at.place.top_k));
  return result;
}

/// Sum over the experts of the variance over the domains of their share of the choices.
double specialisation(const RouterSums& at, const std::vector<std::vector<double>>& by_domain) {
  double total = 0;
  for (int64_t e = 0; e < at.place.experts; ++e) {
    std::vector<double> shares;
    for (const std::vector<double>& sums : by_domain) {
      const double choices = sums[at.tokens()] * static_cast<double>(at.place.top_k);
      if (choices > 0) shares.push_back(sums[at.load() + e] / choices);
    }
    if (shares.empty()) continue;
    const double count = static_cast<double>(shares.size());
    const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / count;
    double squares = 0;
    for (const double share : shares) squares += (share - mean) * (share - mean);
    total += squares / count;
  }
  return total;
}

class RoutingAnalysis final : public TextAnalysis {
 public:
  explicit RoutingAnalysis(const TextSetting& setting)
      : domains_(setting.domains),
        model_(dynamic_cast<const RoutingAnalysis*>(setting.of_model)),
        routers_(layout(setting.config)),
        sums_(domains_.size(), routers_.back().end()),
        choices_(routers_.size()) {
    MOE_CHECK(model_ == nullptr || model_->routers_.size() == routers_.size(), "a baseline of other routers");
    for (const RouterSums& at : routers_) pairs_.push_back(at::zeros({at.place.experts, at.place.experts}, at::kLong));
  }

  void see_routing(const std::vector<const Routing*>& routers, const TextPieces& pieces) override {
    MOE_CHECK(routers.size() == routers_.size(), routers.size(), " routers, not ", routers_.size());
    for (size_t r = 0; r < routers.size(); ++r) {
      const at::Tensor ids = routers[r]->expert_ids_TK.to(at::kCPU).contiguous(),
                       weights = host_rows(routers[r]->weights_TK),
                       probabilities = host_rows(routers[r]->probabilities_TE);
      const RouterSums& at = routers_[r];
      const int64_t tokens_before = static_cast<int64_t>(choices_[r].size()) / at.place.top_k;
      choices_[r].insert(choices_[r].end(), ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel());
      for (const TextPiece& piece : pieces) {
        const RoutedPiece routed{ids.const_data_ptr<int64_t>() + piece.first * at.place.top_k,
                                 weights.const_data_ptr<double>() + piece.first * at.place.top_k,
                                 probabilities.const_data_ptr<double>() + piece.first * at.place.experts,
                                 piece.last - piece.first};
        double* const sums = sums_.of(piece.row, piece.domain);
        add_tokens(at, routed, sums);
        add_windows(at, routed, sums);
        if (at.place.part == "attention") add_visible_keys(at, routed, sums);
        count_pairs_of_tokens(routed, at.place.top_k, pairs_[r]);
        if (model_ == nullptr) continue;
        const int64_t model_top_k = model_->routers_[r].place.top_k;
        add_agreement(at, routed, model_->choices_[r].data() + (tokens_before + piece.first) * model_top_k, model_top_k,
                      sums);
      }
    }
  }

  json result(Communicator& world) override {
    const std::vector<std::vector<double>> by_domain = sums_.total(world, "routing");
    const std::vector<double> all = over_domains(by_domain);
    json routers = json::array();
    for (size_t r = 0; r < routers_.size(); ++r) {
      const RouterSums& at = routers_[r];
      json router = {{"layer", at.place.layer},     {"part", at.place.part},
                     {"experts", at.place.experts}, {"top_k", at.place.top_k},
                     {"all", of_tokens(at, all)},   {"specialisation", specialisation(at, by_domain)}};
      for (size_t d = 0; d < domains_.size(); ++d) router["domains"][domains_[d]] = of_tokens(at, by_domain[d]);
      world.all_reduce_sum(pairs_[r], concat("experts chosen together, router ", r));
      if (at.place.top_k > 1) router["coactivation"] = rows_of(pairs_[r]);
      routers.push_back(std::move(router));
    }
    return {{"domains", domains_}, {"window", kWindow}, {"routers", std::move(routers)}};
  }

 private:
  json of_tokens(const RouterSums& at, const std::vector<double>& sums) const {
    json result = routing_statistics(at, sums);
    const double choices = sums[at.tokens()] * static_cast<double>(at.place.top_k);
    if (model_ != nullptr) result["agreement"] = choices > 0 ? json(sums[at.agreeing()] / choices) : json();
    return result;
  }

  static std::vector<std::vector<int64_t>> rows_of(const at::Tensor& counts_EE) {
    std::vector<std::vector<int64_t>> rows;
    const auto* const count = counts_EE.const_data_ptr<int64_t>();
    for (int64_t e = 0; e < counts_EE.size(0); ++e)
      rows.emplace_back(count + e * counts_EE.size(1), count + (e + 1) * counts_EE.size(1));
    return rows;
  }

  static std::vector<RouterSums> layout(const ModelConfig& config) {
    std::vector<RouterSums> routers;
    for (const RouterPlace& place : routers_of(config)) {
      const bool sees_all = place.part != "attention" || config.moe->attention->kv_mode == "dense";
      routers.push_back({place, sees_all, routers.empty() ? 0 : routers.back().end()});
    }
    MOE_CHECK(!routers.empty(), "a dense model has no routers");
    return routers;
  }

  std::vector<std::string> domains_;
  const RoutingAnalysis* model_;  ///< of the model that this is the baseline of; null: this is the model
  std::vector<RouterSums> routers_;
  TextSums sums_;
  std::vector<at::Tensor> pairs_;              ///< by router [E, E]: tokens that chose both
  std::vector<std::vector<int16_t>> choices_;  ///< by router: of all tokens of this rank, [T, K]
};

}  // namespace

Analysis routing() {
  return {.title = "Routing",
          .summary =
              "Where routers send the tokens of each domain, how sure they are, and whether neighbouring tokens "
              "go the same way.",
          .refusal = needs_a_router,
          .of_text = [](const TextSetting& setting) { return std::make_unique<RoutingAnalysis>(setting); },
          .metrics = routing_metrics,
          .figures = routing_figures};
}

}  // namespace moe
