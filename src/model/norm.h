#pragma once

#include <ATen/core/Tensor.h>

#include "model/model_config.h"

namespace moe {

struct NormWeights {
  at::Tensor weight;
  at::Tensor bias{};  ///< of a LayerNorm
};

/// The norm that the config says, over the rows of x [T, D].
at::Tensor normalize(const ModelConfig& config, const NormWeights& weights, const at::Tensor& x_TD);

}  // namespace moe
