#include "model/norm.h"

#include "model/ops.h"

namespace moe {

at::Tensor normalize(const ModelConfig& config, const NormWeights& weights, const at::Tensor& x_TD) {
  return config.norm == NormKind::kLayer ? ops::layer_norm(x_TD, weights.weight, weights.bias, config.norm_eps)
                                         : ops::rms_norm(x_TD, weights.weight, config.norm_eps);
}

}  // namespace moe
