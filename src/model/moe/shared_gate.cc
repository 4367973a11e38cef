#include "model/moe/shared_gate.h"

#include "common/error.h"
#include "model/kernel_views.h"
#include "model/ops.h"

namespace moe {
namespace {

/// Of the shared experts, [T, R].
at::Tensor shared_weights(const at::Tensor& gate_RD, const SharedGateOptions& options, const at::Tensor& x_TD) {
  // As a router's logits, and their sigmoid as a router's (model/moe/router.cc).
  const at::ScalarType type = sum_type(x_TD.scalar_type());
  const at::Tensor logits_TR = ops::linear(x_TD.to(type), gate_RD.to(type));
  if (options.gate == SharedGate::kSoftmax) return at::softmax(logits_TR, 1) * options.scale;
  const at::Tensor beside_zero = at::cat({logits_TR, at::zeros_like(logits_TR)}, 1);
  return at::softmax(beside_zero, 1).narrow(1, 0, 1) * options.scale;
}

}  // namespace

SharedGate parse_shared_gate(const std::string& name) {
  if (name == "none") return SharedGate::kNone;
  if (name == "softmax") return SharedGate::kSoftmax;
  if (name == "sigmoid") return SharedGate::kSigmoid;
  throw InvalidArgument(concat("shared gate '", name, "'; expected none, softmax or sigmoid"));
}

at::Tensor shared_output(const FeedForwardWeights& shared, const at::Tensor& gate_RD, const SharedGateOptions& options,
                         const at::Tensor& x_TD) {
  if (options.gate == SharedGate::kNone) return feed_forward(shared, x_TD);
  const at::Tensor activations = neuron_activations(shared, x_TD);
  const int64_t tokens = activations.size(0), width = activations.size(1), experts = gate_RD.size(0);
  const at::Tensor weighted =
      activations.view({tokens, experts, width / experts}) * shared_weights(gate_RD, options, x_TD).unsqueeze(2);
  return ops::linear(weighted.view({tokens, width}).to(activations.scalar_type()), shared.down, shared.down_bias);
}

}  // namespace moe
