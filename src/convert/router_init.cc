#include "convert/router_init.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/feature_clusters.h"
#include "convert/row_sums.h"
#include "model/ops.h"

namespace moe {
namespace {

CounterRng rng_of(const RouterRequest& request) {
  return CounterRng(request.seed, request.stream, static_cast<uint32_t>(request.layer));
}

/// MLP inputs of the given global tokens. Each row lives on one rank; the others add zeros, so no bit changes. [tokens,
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

/// MLP inputs of as many random tokens as there are experts, no two alike: the first token of every document is, and so
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

/// Rows of the features' space as a router. Raw, that is the papers' form; calibrated, the rows are centred (else every
/// expert's logit mostly measures the common direction of all tokens), brought to unit length (else long rows win
/// everywhere) and scaled so that logits have a standard deviation of 1.
at::Tensor router_of_rows(at::Tensor router, const RouterRequest& request, Communicator& world) {
  if (request.scaling == "raw") return router;

  const CalibrationFeatures& features = *request.features;
  // In one order, so that the router has the same bits at any number of ranks.
  RowSums sums;
  for (int64_t t = 0; t < features.local_TD.size(0); ++t)
    sums.add(features.first + t, features.local_TD[t].to(at::kDouble));
  const at::Tensor sum = sums.total({features.local_TD.size(1)}, world, "router mean");
  router = router - (sum / static_cast<double>(features.total)).to(at::kFloat);
  router = router / router.norm(2, {1}, true).clamp_min(1e-12);
  const double deviation = router_logit_deviation(router, features, world);
  return router / std::max(deviation, 1e-12);
}

/// The MLP inputs of random calibration tokens are the router's rows.
at::Tensor random_selection(const RouterRequest& request, Communicator& world) {
  return router_of_rows(select_rows(request, world), request, world);
}

/// Centroids of clusters of the MLP inputs are, the same as those of which a method groups tokens (group_by_router).
at::Tensor hidden_clustering(const RouterRequest& request, Communicator& world) {
  const at::Tensor rows_ED = request.centroids_ED.defined()
                                 ? request.centroids_ED
                                 : feature_centroids(*request.features, request.experts, request.seed, request.layer,
                                                     request.section + "router.init hidden_clustering", world);
  return router_of_rows(rows_ED, request, world);
}

/// U(-1 / sqrt(hidden), 1 / sqrt(hidden)): Kaiming-uniform with a = sqrt(5), as LLaMA-MoE v2's vanilla script.
at::Tensor kaiming(const RouterRequest& request, Communicator&) {
  CounterRng rng = rng_of(request);
  const double bound = 1 / std::sqrt(static_cast<double>(request.hidden_size));
  at::Tensor router = at::empty({request.experts, request.hidden_size}, at::kFloat);
  float* values = router.mutable_data_ptr<float>();
  for (int64_t i = 0; i < router.numel(); ++i) values[i] = static_cast<float>((2 * rng.uniform() - 1) * bound);
  return router;
}

at::Tensor zero(const RouterRequest& request, Communicator&) {
  return at::zeros({request.experts, request.hidden_size}, at::kFloat);
}

}  // namespace

const Registry<RouterInit>& router_inits() {
  static const Registry<RouterInit> inits(
      "router initialisation",
      {
          {"random_selection",
           {"MLP inputs of random calibration tokens (LLaMA-MoE v2)", true, random_selection,
            [](int64_t experts, int64_t tokens) { return too_few_to_select(experts, tokens, tokens); }}},
          {"kaiming", {"uniform random rows", false, kaiming}},
          {"zero", {"all experts equally likely; ties go to the lowest", false, zero}},
          {"hidden_clustering",
           {"centroids of balanced clusters of the MLP inputs (LLaMA-MoE v2)", true, hidden_clustering,
            too_few_to_cluster}},
      });
  return inits;
}

double router_logit_deviation(const at::Tensor& router_ED, const CalibrationFeatures& features, Communicator& world) {
  const at::Tensor logits_TE = ops::linear(features.local_TD, router_ED).to(at::kDouble);
  const at::Tensor sums =
      sum_over_tokens(at::stack({logits_TE.sum(1), logits_TE.square().sum(1)}, 1), world, "router logit deviation");
  const double count = static_cast<double>(features.total) * static_cast<double>(router_ED.size(0));
  const double mean = sums[0].item<double>() / count;
  return std::sqrt(std::max(0.0, sums[1].item<double>() / count - mean * mean));
}

}  // namespace moe
