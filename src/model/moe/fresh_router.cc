#include "model/moe/fresh_router.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <utility>

namespace moe {

at::Tensor kaiming_matrix(int64_t rows, int64_t columns, CounterRng& rng) {
  const double bound = 1 / std::sqrt(static_cast<double>(columns));
  at::Tensor matrix = at::empty({rows, columns}, at::kFloat);
  float* const values = matrix.mutable_data_ptr<float>();
  for (int64_t i = 0; i < matrix.numel(); ++i) values[i] = static_cast<float>((2 * rng.uniform() - 1) * bound);
  return matrix;
}

void draw_routers(std::vector<Parameter>& parameters, uint64_t seed) {
  const at::NoGradGuard no_grad;
  std::map<std::pair<int64_t, bool>, CounterRng> draws;  // by layer and part: the matrices of a router go on in one
  for (Parameter& parameter : parameters) {
    const TensorId& id = parameter.id;
    switch (id.part) {
      case TensorPart::kRouter:
      case TensorPart::kRouterOut:
      case TensorPart::kRouterGate: {
        const RngStream stream = id.routes_attention ? kStreamAttentionRouter : kStreamRouter;
        CounterRng& rng =
            draws.try_emplace(std::pair(id.layer, id.routes_attention), seed, stream, static_cast<uint32_t>(id.layer))
                .first->second;
        parameter.value.copy_(kaiming_matrix(parameter.value.size(0), parameter.value.size(1), rng));
        break;
      }
      case TensorPart::kRouterGain:
      case TensorPart::kSelectionBias: parameter.value.zero_(); break;
      default: break;
    }
  }
}

}  // namespace moe
