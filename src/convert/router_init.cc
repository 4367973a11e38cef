#include "convert/router_init.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/distilled_router.h"
#include "convert/principal_directions.h"
#include "convert/request_check.h"
#include "convert/row_sums.h"
#include "convert/top_probability.h"
#include "model/moe/fresh_router.h"

namespace moe {
namespace {

constexpr char kRowLength[] = "row_length", kTargetProbability[] = "target_probability";

/// Rows of length 1; a row of zeros stays.
at::Tensor unit_rows(const at::Tensor& rows_ED) {
  return rows_ED / rows_ED.norm(2, {1}, true).clamp_min(1e-12);
}

CounterRng rng_of(const RouterRequest& request) {
  return CounterRng(request.seed, request.stream, static_cast<uint32_t>(request.layer));
}

/// Inputs of the given global tokens. Each row lives on one rank; the others add zeros, so no bit changes. [tokens,
/// hidden]
at::Tensor gather_features(const CalibrationFeatures& features, const std::vector<int64_t>& tokens,
                           Communicator& world) {
  at::Tensor rows = at::zeros({static_cast<int64_t>(tokens.size()), features.local_TD.size(1)}, at::kFloat);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t local = tokens[i] - features.first;
    if (local >= 0 && local < features.local_TD.size(0)) rows[static_cast<int64_t>(i)].copy_(features.local_TD[local]);
  }
  world.all_reduce_sum(rows, "router rows");
  return rows;
}

std::string too_few_to_distil(int64_t experts, int64_t tokens) {
  if (tokens >= experts) return "";
  return concat("router.init distilled learns from the calibration tokens, and there are ", tokens, " for experts ",
                experts, "; give more text or raise calibration.tokens");
}

std::string too_few_to_cluster(int64_t experts, int64_t tokens) {
  return too_few_tokens("router.init hidden_clustering", tokens, experts);
}

/// `tokens` of `total` are not alike.
std::string too_few_to_select(int64_t experts, int64_t tokens, int64_t total) {
  if (tokens >= experts) return "";
  return concat("router.init random_selection takes one calibration token per expert, no two alike, and the ", total,
                " calibration tokens hold ", tokens, " for experts ", experts,
                "; give more text or raise calibration.tokens");
}

/// `tokens` vary in so many `directions`.
std::string too_few_to_span(int64_t experts, int64_t directions, int64_t tokens) {
  if (directions >= experts) return "";
  return concat("router.init pca takes one principal direction of the calibration tokens per expert, and the ", tokens,
                " tokens vary in ", directions, " for experts ", experts,
                "; give more text, raise calibration.tokens or make fewer experts");
}

/// Inputs of as many random tokens as there are experts, no two alike: the first token of every document is, and so
/// is text that was read twice, and two equal rows would make twins of two experts.
at::Tensor select_rows(const RouterRequest& request, Communicator& world) {
  constexpr double kAlike = 1e-4;  // distance relative to length: above rounding, far below any two contexts
  const CalibrationFeatures& features = *request.features;
  const std::vector<int64_t> order = random_permutation(features.total, rng_of(request));
  std::vector<at::Tensor> chosen;
  for (size_t first = 0; first < order.size() && static_cast<int64_t>(chosen.size()) < request.experts;
       first += request.experts) {
    const size_t last = std::min(order.size(), first + static_cast<size_t>(request.experts));
    const at::Tensor candidates = gather_features(features, {order.begin() + first, order.begin() + last}, world);
    for (const at::Tensor& row : candidates.unbind(0)) {
      if (static_cast<int64_t>(chosen.size()) == request.experts) break;
      const double limit = kAlike * row.norm().item<double>();
      const bool is_new = std::none_of(chosen.begin(), chosen.end(), [&](const at::Tensor& other) {
        return (row - other).norm().item<double>() <= limit;
      });
      if (is_new) chosen.push_back(row);
    }
  }
  const std::string problem = too_few_to_select(request.experts, static_cast<int64_t>(chosen.size()), features.total);
  if (!problem.empty()) throw_agreed<InvalidArgument>("convert: " + request.section + problem);
  return at::stack(chosen);
}

/// In one order, so that it has the same bits at any number of ranks. [D] float
at::Tensor mean_feature(const CalibrationFeatures& features, Communicator& world) {
  RowSums sums;
  for (int64_t t = 0; t < features.local_TD.size(0); ++t)
    sums.add(features.first + t, features.local_TD[t].to(at::kDouble));
  const at::Tensor sum = sums.total({features.local_TD.size(1)}, world, "router mean");
  return (sum / static_cast<double>(features.total)).to(at::kFloat);
}

/// 0 where the init has no such option.
double number_or_zero(const MethodOptions& options, const std::string& name) {
  return options.values().contains(name) ? options.number(name) : 0;
}

/// A router of directions. Raw, that is the papers' form, at their lengths or at options.row_length; calibrated, they
/// are brought to one length (else long rows win everywhere) at which logits have a standard deviation of 1. With
/// options.target_probability it is that which decides the factor of all of them.
InitialRouter router_of_directions(at::Tensor rows_ED, const RouterRequest& request, Communicator& world) {
  const bool is_calibrated = request.scaling != "raw";
  const CalibrationFeatures& features = *request.features;
  const double length = number_or_zero(request.options, kRowLength),
               target = number_or_zero(request.options, kTargetProbability);
  if (is_calibrated || length > 0) rows_ED = unit_rows(rows_ED);
  if (target > 0) {
    rows_ED =
        rows_ED * factor_to_top_probability(router_logits(features.local_TD, {rows_ED}, RouterGate::kLinear), target,
                                            concat(request.section, "router.options.", kTargetProbability), world);
  } else if (is_calibrated) {
    rows_ED = rows_ED / std::max(router_logit_deviation({rows_ED}, RouterGate::kLinear, features, world), 1e-12);
  } else if (length > 0) {
    rows_ED = rows_ED * length;
  }
  return {router_of_rows(rows_ED, request.gate)};
}

/// A router of points of the features' space. Calibrated, they are centred: else every expert's logit mostly measures
/// the common direction of all tokens.
InitialRouter router_of_points(const at::Tensor& rows_ED, const RouterRequest& request, Communicator& world) {
  const bool is_raw = request.scaling == "raw";
  return router_of_directions(is_raw ? rows_ED : rows_ED - mean_feature(*request.features, world), request, world);
}

/// The part's inputs of random calibration tokens are the router's rows.
InitialRouter random_selection(const RouterRequest& request, Communicator& world) {
  return router_of_points(select_rows(request, world), request, world);
}

KMeansDistance distance_of(const MethodOptions& options) {
  const std::string& metric = options.choice("metric");
  if (metric == "l2") return KMeansDistance::kEuclidean;
  return metric == "cos" ? KMeansDistance::kCosine : KMeansDistance::kSquared;
}

TokenClustering clustering_of(const MethodOptions& options) {
  return {.distance = distance_of(options), .jitter = options.number("jitter"), .restarts = options.whole("restarts")};
}

/// Centroids of clusters of the part's inputs are, the same as those of which a method groups tokens (group_by_router).
InitialRouter hidden_clustering(const RouterRequest& request, Communicator& world) {
  at::Tensor rows_ED = request.centroids_ED;
  if (!rows_ED.defined()) {
    TokenClustering how = clustering_of(request.options);
    how.clusters = request.experts;
    how.seed = request.seed;
    how.layer = request.layer;
    rows_ED = feature_centroids(*request.features, how, request.section + "router.init hidden_clustering", world);
  }
  return router_of_points(rows_ED, request, world);
}

/// Of a long text evenly spread tokens. Calibrated, directions are across the mean of the tokens, and their logits
/// about 0 as those of centred rows are.
InitialRouter pca(const RouterRequest& request, Communicator& world) {
  const at::Tensor tokens_nD = spread_features(*request.features, world);
  const at::Tensor rows_ED =
      principal_directions(tokens_nD, request.experts, /*across_mean=*/request.scaling != "raw", world);
  const std::string problem = too_few_to_span(request.experts, rows_ED.size(0), tokens_nD.size(0));
  if (!problem.empty()) throw_agreed<InvalidArgument>("convert: " + request.section + problem);
  return router_of_directions(rows_ED, request, world);
}

/// Every matrix of the gate drawn, one after the other.
InitialRouter drawn_router(const RouterRequest& request,
                           const std::function<at::Tensor(int64_t rows, int64_t columns, CounterRng&)>& draw) {
  CounterRng rng = rng_of(request);
  InitialRouter router{{.weight_ED = draw(request.experts, request.hidden_size, rng)}};
  if (request.gate == RouterGate::kMlp) router.weights.out_weight_EE = draw(request.experts, request.experts, rng);
  if (request.gate == RouterGate::kProduct)
    router.weights.gate_weight_ED = draw(request.experts, request.hidden_size, rng);
  return router;
}

InitialRouter kaiming(const RouterRequest& request, Communicator&) {
  return drawn_router(request, kaiming_matrix);
}

InitialRouter normal(const RouterRequest& request, Communicator&) {
  const double deviation = request.options.number("deviation");
  return drawn_router(request, [deviation](int64_t rows, int64_t columns, CounterRng& rng) {
    at::Tensor matrix = at::empty({rows, columns}, at::kFloat);
    float* const values = matrix.mutable_data_ptr<float>();
    for (int64_t i = 0; i < matrix.numel(); ++i) values[i] = static_cast<float>(deviation * rng.normal());
    return matrix;
  });
}

InitialRouter zero(const RouterRequest& request, Communicator&) {
  return {router_of_rows(at::zeros({request.experts, request.hidden_size}, at::kFloat), request.gate)};
}

const std::vector<MethodOption>& clustering_options() {
  static const std::vector<MethodOption> options{
      {.name = "metric",
       .help = "distance of a token to a centroid: squared (l2sq), Euclidean (l2) or of directions (cos)",
       .fallback = "l2sq",
       .published = "l2",
       .choices = {"l2sq", "l2", "cos"}},
      {.name = "jitter",
       .help = "how far clusters may be from equal sizes, as a share (j)",
       .fallback = "0",
       .published = "0.1"},
      {.name = "restarts",
       .help = "first centres that are tried",
       .fallback = "3",
       .published = "16",
       .least = 1,
       .most = 1000,
       .is_whole = true}};
  return options;
}

/// `own`, and what becomes of the rows that an init takes from text.
std::vector<MethodOption> with_row_options(std::vector<MethodOption> own) {
  own.push_back({.name = kRowLength,
                 .help = "length of every row with scaling raw (tau); 0: rows are as long as they are",
                 .fallback = "0",
                 .most = 1e6});
  own.push_back({.name = kTargetProbability,
                 .help = "mean softmax probability of a token's likeliest expert on the calibration text, to which one "
                         "factor brings all rows; 0: no such factor",
                 .fallback = "0",
                 .most = 0.999});
  return own;
}

/// Options of rows that the router's other settings leave without effect.
void check_row_options(const v1::RouterSpec& router, const MethodOptions& options, const std::string& section) {
  const auto require = [&](bool has_effect, const char* option, const std::string& with, const std::string& instead) {
    if (has_effect) return;
    throw InvalidArgument(concat("convert: ", section, "router.options.", option, " (", options.choice(option),
                                 ") has no effect with ", section, "router.", with, "; set ", section, "router.",
                                 instead, " or remove it"));
  };
  const bool has_target = number_or_zero(options, kTargetProbability) > 0;
  if (number_or_zero(options, kRowLength) > 0) {
    require(router.scaling() == "raw", kRowLength, "scaling 'calibrated', which decides the length of rows",
            "scaling: raw");
    require(router_gate(router) != RouterGate::kProduct, kRowLength, "gate 'product', whose rows have length 1",
            "gate: linear");
    require(!has_target, kRowLength, concat("options.", kTargetProbability, ", which decides the length of rows"),
            concat("options.", kTargetProbability, ": 0"));
  }
  if (!has_target) return;
  // Tanh is bounded, and rows of a product have length 1.
  require(router_gate(router) == RouterGate::kLinear, kTargetProbability,
          concat("gate '", router.gate(), "', whose logits no factor of its rows brings to a probability"),
          "gate: linear");
  require(router_score(router) == "softmax", kTargetProbability, concat("score '", router.score(), "'"),
          "score: softmax");
}

/// Of hidden_clustering, by the spec's settings where that is its init.
MethodOptions clustering_options_of(const v1::ConvertSpec& spec) {
  v1::RouterSpec router = spec.router();
  if (router.init() != "hidden_clustering") router.clear_options();
  router.set_init("hidden_clustering");
  return router_init_options(router, spec.preset());
}

}  // namespace

const Registry<RouterInit>& router_inits() {
  static const Registry<RouterInit> inits(
      "router initialisation",
      {
          {"random_selection",
           {"the layer's inputs of random calibration tokens (LLaMA-MoE v2)", true, random_selection,
            [](int64_t experts, int64_t tokens) { return too_few_to_select(experts, tokens, tokens); }}},
          {"kaiming", {"uniform random rows", false, kaiming}},
          {"normal",
           {"normal random rows (LLaMA-MoE v1)",
            false,
            normal,
            {},
            {{.name = "deviation", .help = "standard deviation of a weight", .fallback = "0.02", .least = 1e-6}}}},
          {"zero", {"all experts equally likely; ties go to the lowest", false, zero}},
          {"hidden_clustering",
           {"centroids of balanced clusters of the layer's inputs (LLaMA-MoE v2)", true, hidden_clustering,
            too_few_to_cluster, with_row_options(clustering_options())}},
          {"pca",
           {"principal directions of the layer's inputs", true, pca,
            [](int64_t experts, int64_t tokens) { return too_few_to_span(experts, tokens - 1, tokens); },
            with_row_options({})}},
          {"distilled",
           {"trained to choose the experts whose neurons are most active on the calibration text (MoEfication)", true,
            distilled_router, too_few_to_distil, distillation_options(), /*needs_experts=*/true}},
      });
  return inits;
}

MethodOptions router_init_options(const v1::RouterSpec& router, const std::string& preset, const std::string& section) {
  MethodOptions options(router_inits().at(router.init()).options, router.options(), preset == "published",
                        section + "router.options", section + "router.init " + router.init());
  check_row_options(router, options, section);
  return options;
}

TokenClustering token_clustering(const v1::ConvertSpec& spec) {
  return clustering_of(clustering_options_of(spec));
}

std::string clustering_name(const v1::ConvertSpec& spec) {
  const MethodOptions options = clustering_options_of(spec);
  std::string name;
  for (const MethodOption& option : clustering_options()) {
    if (options.choice(option.name) != option.fallback)
      name += concat(" ", option.name, "=", options.choice(option.name));
  }
  return name;
}

RouterWeights router_of_rows(const at::Tensor& rows_ED, RouterGate gate) {
  RouterWeights router{.weight_ED = rows_ED};
  if (gate == RouterGate::kMlp) router.out_weight_EE = at::eye(rows_ED.size(0), at::kFloat);
  if (gate == RouterGate::kProduct) router.weight_ED = router.gate_weight_ED = unit_rows(rows_ED);
  return router;
}

RouterWeights in_groups_of(const RouterWeights& router, int64_t group) {
  if (group == 1) return router;
  const auto repeated = [group](const at::Tensor& rows) {
    return rows.defined() ? rows.repeat_interleave(group, 0) : rows;
  };
  RouterWeights all{.weight_ED = repeated(router.weight_ED), .gate_weight_ED = repeated(router.gate_weight_ED)};
  if (router.out_weight_EE.defined()) {
    // Of each group the first alone is read.
    const int64_t experts = all.weight_ED.size(0);
    all.out_weight_EE = at::zeros({experts, experts}, at::kFloat);
    all.out_weight_EE.slice(1, 0, experts, group).copy_(repeated(router.out_weight_EE));
  }
  return all;
}

double router_logit_deviation(const RouterWeights& router, RouterGate gate, const CalibrationFeatures& features,
                              Communicator& world) {
  const at::Tensor logits_TE = router_logits(features.local_TD, router, gate).to(at::kDouble);
  const at::Tensor sums =
      sum_over_tokens(at::stack({logits_TE.sum(1), logits_TE.square().sum(1)}, 1), world, "router logit deviation");
  const double count = static_cast<double>(features.total) * static_cast<double>(router.weight_ED.size(0));
  const double mean = sums[0].item<double>() / count;
  return std::sqrt(std::max(0.0, sums[1].item<double>() / count - mean * mean));
}

}  // namespace moe
