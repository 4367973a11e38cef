#include "model/fresh_weights.h"

#include <c10/core/GradMode.h>
#include <torch/types.h>

#include <map>
#include <string>
#include <utility>

#include "common/rng.h"
#include "model/tensor_specs.h"

namespace moe {
namespace {

bool is_drawn(const TensorId& id) {
  if (id.is_bias) return false;
  switch (id.part) {
    case TensorPart::kEmbedding:
    case TensorPart::kHead:
    case TensorPart::kQuery:
    case TensorPart::kKey:
    case TensorPart::kValue:
    case TensorPart::kAttentionOut:
    case TensorPart::kRouter:
    case TensorPart::kRouterOut:
    case TensorPart::kRouterGate:
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown: return true;
    default: return false;
  }
}

bool is_norm(const TensorId& id) {
  return !id.is_bias && (id.part == TensorPart::kInputNorm || id.part == TensorPart::kPostAttentionNorm ||
                         id.part == TensorPart::kFinalNorm);
}

at::Tensor normal_numbers(at::IntArrayRef shape, CounterRng rng) {
  at::Tensor drawn = at::empty(shape, at::kDouble);
  double* const values = drawn.mutable_data_ptr<double>();
  for (int64_t i = 0; i < drawn.numel(); ++i) values[i] = kFreshDeviation * rng.normal();
  return drawn;
}

}  // namespace

void draw_fresh_weights(const std::vector<Parameter>& parameters, const ModelConfig& config, uint64_t seed) {
  const at::NoGradGuard no_grad;
  std::map<std::string, std::pair<uint32_t, TensorId>> known;
  uint32_t number = 0;
  for (const TensorSpec& spec : logical_tensor_specs(config)) known.insert({spec.name, {number++, spec.id}});
  for (const Parameter& parameter : parameters) {
    for (const LogicalView& logical : logical_views(parameter, parameter.value)) {
      const auto place = known.find(logical.name);
      if (place == known.end() || (!is_drawn(place->second.second) && !is_norm(place->second.second))) {
        logical.view.zero_();  // among them selection biases that the model is about to get
      } else if (is_norm(place->second.second)) {
        logical.view.fill_(1);
      } else {
        logical.view.copy_(normal_numbers(logical.view.sizes(), {seed, kStreamFreshWeights, place->second.first}));
      }
    }
  }
}

}  // namespace moe
