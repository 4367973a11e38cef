#include "model/feed_forward.h"

#include "model/ops.h"

namespace moe {

at::Tensor neuron_activations(const FeedForwardWeights& weights, const at::Tensor& x_TD,
                              const GateObserver& see_gates) {
  const at::Tensor up = ops::linear(x_TD, weights.up, weights.up_bias);
  if (!weights.gate.defined()) return ops::gelu_new(up);
  const at::Tensor gates = ops::linear(x_TD, weights.gate, weights.gate_bias);
  if (see_gates) see_gates(gates);
  return ops::swiglu(gates, up);
}

at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD) {
  return ops::linear(neuron_activations(weights, x_TD), weights.down, weights.down_bias);
}

}  // namespace moe
