#include "convert/router_init.h"

#include <cmath>

#include "common/error.h"
#include "common/rng.h"

namespace moe {
namespace {

CounterRng rng_of(const RouterRequest& request) {
  return CounterRng(request.seed, kStreamRouter, static_cast<uint32_t>(request.layer));
}

/// As many distinct calibration tokens as there are experts: their MLP inputs are the router's rows. Raw, that is the papers' form;
/// calibrated, the rows are centred (else every expert's logit mostly measures the common direction of all tokens), brought to unit
/// length (else long rows win everywhere) and scaled so that logits have a standard deviation of 1.
at::Tensor random_selection(const RouterRequest& request, Communicator& world) {
  const CalibrationFeatures& features = *request.features;
  if (features.total < request.experts) {
    throw InvalidArgument(concat("router_init random_selection needs at least ", request.experts, " calibration tokens (one per expert), there are ",
                                 features.total, "; add calibration text or raise calibration_tokens"));
  }
  const std::vector<int64_t> order = random_permutation(features.total, rng_of(request));
  // Each row lives on one rank; the others add zeros.
  at::Tensor router = at::zeros({request.experts, request.hidden_size}, at::kFloat);
  for (int64_t expert = 0; expert < request.experts; ++expert) {
    const int64_t local = order[expert] - features.first;
    if (local >= 0 && local < features.local_TD.size(0)) router[expert].copy_(features.local_TD[local]);
  }
  world.all_reduce_sum(router, "router rows");
  if (request.scaling == "raw") return router;

  at::Tensor mean = features.local_TD.sum(0, false, at::kDouble);
  world.all_reduce_sum(mean, "router mean");
  router = router - (mean / static_cast<double>(features.total)).to(at::kFloat);
  router = router / router.norm(2, {1}, true).clamp_min(1e-12);
  const double deviation = router_logit_deviation(router, features, world);
  return router / std::max(deviation, 1e-12);
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
  static const Registry<RouterInit> inits("router initialisation",
                                          {
                                              {"random_selection", {"MLP inputs of random calibration tokens (LLaMA-MoE v2)", true, random_selection}},
                                              {"kaiming", {"uniform random rows", false, kaiming}},
                                              {"zero", {"all experts equally likely; ties go to the lowest", false, zero}},
                                          });
  return inits;
}

double router_logit_deviation(const at::Tensor& router_ED, const CalibrationFeatures& features, Communicator& world) {
  const at::Tensor logits = at::matmul(features.local_TD, router_ED.t()).to(at::kDouble);
  at::Tensor sums = at::stack({logits.sum(), logits.square().sum()});
  world.all_reduce_sum(sums, "router logit deviation");
  const double count = static_cast<double>(features.total) * static_cast<double>(router_ED.size(0));
  const double mean = sums[0].item<double>() / count;
  return std::sqrt(std::max(0.0, sums[1].item<double>() / count - mean * mean));
}

}  // namespace moe
