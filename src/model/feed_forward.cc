#include "model/feed_forward.h"

#include "model/ops.h"

namespace moe {

at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD) {
  const at::Tensor gate = ops::linear(x_TD, weights.gate), up = ops::linear(x_TD, weights.up);
  return ops::linear(at::silu(gate) * up, weights.down);
}

}  // namespace moe
