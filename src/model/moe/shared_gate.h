#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "model/feed_forward.h"

// T tokens, D hidden, R rows of the gate.
namespace moe {

/// How tokens weigh what shared experts give them.
enum class SharedGate {
  kNone,     ///< 1
  kSoftmax,  ///< of W x, a row for each shared expert
  kSigmoid,  ///< of W x, one row for all of them
};
SharedGate parse_shared_gate(const std::string& name);

struct SharedGateOptions {
  SharedGate gate = SharedGate::kNone;
  double scale = 1;  ///< factor of the gate's weights
};

/// What the shared experts give: down(w * silu(gate x) * up x), without a gate of the FFN down(w * gelu_new(up x)).
/// `shared` has their neurons, those of one expert after those of the other, and w is the weight of a neuron's expert,
/// scale * softmax(W x)_r or scale * sigmoid(W x), in max(fp32, dtype). Differentiable; rows depend on their own token
/// alone, bit for bit.
///
/// Shapes   x [T, D], gate W [R, D], undefined where there is none; R divides the neurons -> [T, D]. T may be 0.
/// Source   softmax: LLaMA-MoE v1 (arXiv:2406.16554), its residual layer; sigmoid: Qwen2-MoE (arXiv:2407.10671).
at::Tensor shared_output(const FeedForwardWeights& shared, const at::Tensor& gate_RD, const SharedGateOptions& options,
                         const at::Tensor& x_TD);

}  // namespace moe
