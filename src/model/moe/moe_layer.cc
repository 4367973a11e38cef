#include "model/moe/moe_layer.h"

#include <string>

#include "model/ops.h"

namespace moe {

at::Tensor run_experts(const MoeWeights& weights, const MoeOptions& options, const DispatchedTokens& dispatched) {
  const at::Tensor in =
      ops::grouped_linear(dispatched.rows_RD, weights.gate_up, dispatched.rows_per_expert, weights.gate_up_bias);
  const at::Tensor hidden = options.is_gated ? ops::swiglu(in) : ops::gelu_new(in);
  return ops::grouped_linear(hidden, weights.down, dispatched.rows_per_expert);
}

MoeOutput moe_layer(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                    TokenDispatcher& dispatcher, int64_t layer, const MoePass& pass) {
  at::Tensor draws_TE;
  if (pass.noise != nullptr && options.router.noise != RouterNoise::kNone) {
    draws_TE =
        noise_draws(*pass.noise, options.router.noise, layer, x_TD.size(0), options.num_experts).to(x_TD.device());
  }
  const Routing routing =
      route(x_TD, weights.router, options.router, draws_TE,
            chosen_ids(pass.choice, layer, x_TD.size(0), options.num_experts, options.router.top_k, x_TD.device()));
  measure(routing, kFfnRouter, pass.statistics);
  // The scale goes into the weights: T x K products instead of T x D.
  const at::Tensor weights_TK =
      options.output_scale == 1 ? routing.weights_TK : routing.weights_TK * options.output_scale;
  const DispatchedTokens dispatched = dispatcher.dispatch(
      {x_TD, routing.expert_ids_TK, weights_TK, options.num_experts, "layer " + std::to_string(layer)});
  at::Tensor y = dispatcher.combine(run_experts(weights, options, dispatched), dispatched);
  if (weights.shared) y = feed_forward(*weights.shared, x_TD).add_(y);
  if (weights.output_bias.defined()) y = ops::add_bias(y, weights.output_bias);
  return {y, stats_of(routing, pass.keeps_routing)};
}

}  // namespace moe
