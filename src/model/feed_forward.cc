#include "model/feed_forward.h"

#include "model/ops.h"

namespace moe {

at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD) {
  const at::Tensor hidden = ops::swiglu(ops::linear(x_TD, weights.gate), ops::linear(x_TD, weights.up));
  return ops::linear(hidden, weights.down);
}

}  // namespace moe
