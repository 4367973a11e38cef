#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace moe {

struct FeedForwardWeights {
  at::Tensor gate, up, down;                       ///< [I, D], [I, D], [D, I]; gate undefined where the FFN has none
  at::Tensor gate_bias{}, up_bias{}, down_bias{};  ///< [I], [I], [D]; undefined where there is none
};

/// Sees what gates give for each token, before silu. Not called where there are none.
using GateObserver = std::function<void(const at::Tensor& gates_TI)>;

/// What a neuron gives for each token: silu(gate x) * up x, without a gate gelu_new(up x). x [T, D] -> [T, I].
at::Tensor neuron_activations(const FeedForwardWeights& weights, const at::Tensor& x_TD,
                              const GateObserver& see_gates = {});

/// down(silu(gate x) * up x), without a gate down(gelu_new(up x)), for a dense layer or a shared expert. x [T, D] ->
/// [T, D].
at::Tensor feed_forward(const FeedForwardWeights& weights, const at::Tensor& x_TD);

}  // namespace moe
