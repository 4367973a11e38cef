#include "convert/router_init_fixture.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "common/rng.h"
#include "testing/run_ranks.h"

namespace moe::testing {

at::Tensor features() {
  at::Tensor x = at::empty({kTokens, kHidden}, at::kFloat);
  CounterRng rng(3, kStreamTest);
  for (int64_t t = 0; t < kTokens; ++t) {
    const double length = std::exp(rng.normal());
    for (int64_t d = 0; d < kHidden; ++d) x[t][d] = (d % 5 == 0 ? 3.0 : 0.0) + length * rng.normal();
  }
  return x;
}

MethodOptions options_of(const std::string& init, const std::map<std::string, std::string>& given,
                         const std::string& scaling) {
  v1::RouterSpec router;
  router.set_init(init);
  router.set_scaling(scaling);
  for (const auto& [name, value] : given) (*router.mutable_options())[name] = value;
  return router_init_options(router, "ours");
}

void give_experts(RouterRequest& request, FeedForwardWeights& dense) {
  CounterRng rng(4, kStreamTest);
  const auto matrix = [&rng](int64_t rows, int64_t columns) {
    at::Tensor values = at::empty({rows, columns}, at::kFloat);
    for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
    return values;
  };
  dense = {matrix(70, kHidden), matrix(70, kHidden), matrix(kHidden, 70)};
  request.dense = &dense;
  request.top_k = 2;
  for (int32_t e = 0; e < kExperts; ++e) {
    request.neurons.emplace_back(10);
    std::iota(request.neurons.back().begin(), request.neurons.back().end(), 10 * e);
  }
}

RouterWeights make_weights(const std::string& init, const std::string& scaling, int ranks, RouterGate gate,
                           int64_t layer, uint64_t seed, const MethodOptions& options) {
  const at::Tensor all = features();
  RouterWeights result;
  run_ranks(ranks, [&](Communicator& world) {
    const int64_t first = kTokens * world.rank() * world.rank() / (ranks * ranks),
                  last = kTokens * (world.rank() + 1) * (world.rank() + 1) / (ranks * ranks);
    const CalibrationFeatures mine{all.slice(0, first, last), first, kTokens};
    RouterRequest request{.experts = kExperts,
                          .hidden_size = kHidden,
                          .layer = layer,
                          .seed = seed,
                          .scaling = scaling,
                          .features = &mine,
                          .gate = gate,
                          .options = options.values().empty() ? options_of(init) : options};
    FeedForwardWeights dense;
    give_experts(request, dense);
    const InitialRouter router = router_inits().at(init).make(request, world);
    if (world.rank() == ranks - 1) result = router.weights;
  });
  return result;
}

at::Tensor make_router(const std::string& init, const std::string& scaling, int ranks, int64_t layer, uint64_t seed) {
  return make_weights(init, scaling, ranks, RouterGate::kLinear, layer, seed).weight_ED;
}

double logit_deviation(const at::Tensor& router) {
  const at::Tensor logits = at::matmul(features().to(at::kDouble), router.to(at::kDouble).t());
  return logits.std(/*unbiased=*/false).item<double>();
}

}  // namespace moe::testing
