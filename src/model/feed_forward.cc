#include "model/feed_forward.h"

#include "model/ops.h"

namespace moe {

at::Tensor neuron_activations(const FeedForwardWeights& weights, const at::Tensor& x_TD) {
  const at::Tensor up = ops::linear(x_TD, weights.up, weights.up_bias);
  return weights.gate.defined() ? ops::swiglu(ops::linear(x_TD, weights.gate, weights.gate_bias), up)
                                : ops::gelu_new(up);
}

at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD) {
  return ops::linear(neuron_activations(weights, x_TD), weights.down, weights.down_bias);
}

}  // namespace moe
