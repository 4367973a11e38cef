#include "model/moe/importance_load.h"

#include <tuple>

#include "common/error.h"

namespace moe {
namespace {

/// [E]; in the order of the tokens, which a scatter does not promise on every device.
at::Tensor importance_of(const Routing& routing) {
  const at::Tensor weights_TK = routing.weights_TK.to(at::kDouble);
  return at::zeros(routing.logits_TE.sizes(), weights_TK.options().requires_grad(false))
      .scatter(1, routing.expert_ids_TK, weights_TK)
      .sum(0);
}

/// [E]
at::Tensor load_of(const RouterStats& stats, LoadEstimator estimator) {
  const Routing& routing = stats.routing;
  const int64_t top_k = routing.expert_ids_TK.size(1);
  if (!routing.noise_width_TE.defined() || top_k >= routing.logits_TE.size(1))
    return stats.tokens_per_expert_E.to(at::kDouble);
  const at::Tensor noisy_TE = routing.logits_TE.to(at::kDouble), clean_TE = routing.clean_logits_TE.to(at::kDouble),
                   width_TE = routing.noise_width_TE.to(at::kDouble);
  const at::Tensor largest_TK = std::get<0>(at::topk(noisy_TE, top_k + 1, 1));
  const at::Tensor last_T1 = largest_TK.narrow(1, top_k - 1, 1), next_T1 = largest_TK.narrow(1, top_k, 1);
  const at::Tensor compared_TE = estimator == LoadEstimator::kExact ? noisy_TE : noisy_TE - clean_TE;
  const at::Tensor threshold_TE = at::where(compared_TE.detach().gt(next_T1.detach()), next_T1, last_T1);
  return at::special_ndtr((clean_TE - threshold_TE) / width_TE).sum(0);
}

}  // namespace

LoadEstimator parse_load_estimator(const std::string& name) {
  if (name == "exact") return LoadEstimator::kExact;
  if (name == "reference_v1") return LoadEstimator::kReferenceV1;
  throw InvalidArgument(concat("load_estimator '", name, "'; expected exact or reference_v1"));
}

at::Tensor importance_and_load(const std::vector<RouterStats>& local, LoadEstimator estimator) {
  std::vector<at::Tensor> importance, load;
  for (const RouterStats& stats : local) {
    importance.push_back(importance_of(stats.routing));
    load.push_back(load_of(stats, estimator));
  }
  return at::stack({at::stack(importance), at::stack(load)});
}

at::Tensor importance_load_loss(const at::Tensor& local_2LE, const at::Tensor& all_2LE) {
  const int64_t experts = local_2LE.size(-1);
  if (experts == 1) return at::zeros({}, local_2LE.options().requires_grad(false));
  constexpr double kLeastSquare = 1e-10;
  const at::Tensor sums_2LE = local_2LE + (all_2LE - local_2LE).detach();
  const at::Tensor means_2L = sums_2LE.mean(-1);
  const at::Tensor variances_2L =
      (sums_2LE - means_2L.unsqueeze(-1)).square().sum(-1) / static_cast<double>(experts - 1);
  return (variances_2L / (means_2L.square() + kLeastSquare)).sum();
}

}  // namespace moe
