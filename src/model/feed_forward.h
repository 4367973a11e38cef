#pragma once

#include <ATen/core/Tensor.h>

namespace moe {

struct FeedForwardWeights {
  at::Tensor gate, up, down;   ///< [I, D], [I, D], [D, I]
};

/// down(silu(gate x) * up x), for a dense layer or a shared expert. x [T, D] -> [T, D].
at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD);

}  // namespace moe
