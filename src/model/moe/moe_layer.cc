#include "model/moe/moe_layer.h"

#include <string>

#include "common/error.h"
#include "model/device.h"
#include "model/ops.h"

namespace moe {

at::Tensor expert_activations(const MoeWeights& weights, const MoeOptions& options, const DispatchedTokens& dispatched,
                              const GateObserver& see_gates) {
  const at::Tensor in =
      ops::grouped_linear(dispatched.rows_RD, weights.gate_up, dispatched.rows_per_expert, weights.gate_up_bias);
  if (see_gates && options.is_gated) see_gates(in.narrow(1, 0, in.size(1) / 2));
  return options.is_gated ? ops::swiglu(in) : ops::gelu_new(in);
}

at::Tensor run_experts(const MoeWeights& weights, const MoeOptions& options, const DispatchedTokens& dispatched) {
  return ops::grouped_linear(expert_activations(weights, options, dispatched), weights.down,
                             dispatched.rows_per_expert);
}

namespace {

/// What was chosen for tokens: dispatch, experts, combine.
at::Tensor weighted_sum(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                        const at::Tensor& ids_TK, const at::Tensor& weights_TK, TokenDispatcher& dispatcher,
                        int64_t layer) {
  const DispatchedTokens dispatched =
      dispatcher.dispatch({x_TD, ids_TK, weights_TK, options.num_experts, "layer " + std::to_string(layer)});
  return dispatcher.combine(run_experts(weights, options, dispatched), dispatched);
}

/// The same where experts do not take every token. Those that are dropped are not dispatched.
at::Tensor limited_sum(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                       const at::Tensor& ids_T1, const at::Tensor& weights_T1, TokenDispatcher& dispatcher,
                       int64_t layer, const TokenLimit& limit) {
  MOE_CHECK(ids_T1.size(1) == 1, "a limit of tokens is of top-1, not of top-", ids_T1.size(1));
  const at::Tensor kept_T = limit.kept(ids_T1.flatten(), options.num_experts, layer);
  const auto places = [&](const at::Tensor& where_T) {
    return on_device(at::nonzero(where_T).squeeze(1), x_TD.device());
  };
  const at::Tensor kept_C = places(kept_T), dropped_C = places(kept_T.logical_not());
  if (dropped_C.size(0) == 0) return weighted_sum(weights, options, x_TD, ids_T1, weights_T1, dispatcher, layer);
  const at::Tensor taken_CD =
      weighted_sum(weights, options, x_TD.index_select(0, kept_C), ids_T1.index_select(0, kept_C),
                   weights_T1.index_select(0, kept_C), dispatcher, layer);
  const at::Tensor y_TD = at::zeros(x_TD.sizes(), taken_CD.options()).index_copy(0, kept_C, taken_CD);
  if (!limit.gives_input) return y_TD;
  const at::Tensor input_CD = x_TD.index_select(0, dropped_C) * weights_T1.index_select(0, dropped_C);
  return y_TD.index_copy(0, dropped_C, input_CD.to(y_TD.scalar_type()));
}

}  // namespace

MoeOutput moe_layer(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                    TokenDispatcher& dispatcher, int64_t layer, const MoePass& pass) {
  at::Tensor draws_TE;
  if (pass.noise != nullptr && options.router.noise != RouterNoise::kNone) {
    draws_TE = on_device(noise_draws(*pass.noise, options.router.noise, layer, x_TD.size(0), options.num_experts),
                         x_TD.device());
  }
  const Routing routing =
      route(x_TD, weights.router, options.router, draws_TE,
            chosen_ids(pass.choice, layer, x_TD.size(0), options.num_experts, options.router.top_k, x_TD.device()));
  measure(routing, kFfnRouter, pass.statistics);
  // The scale goes into the weights: T x K products instead of T x D.
  const at::Tensor weights_TK =
      options.output_scale == 1 ? routing.weights_TK : routing.weights_TK * options.output_scale;
  const at::Tensor& ids_TK = routing.expert_ids_TK;
  at::Tensor y = pass.limit != nullptr && pass.limit->kept
                     ? limited_sum(weights, options, x_TD, ids_TK, weights_TK, dispatcher, layer, *pass.limit)
                     : weighted_sum(weights, options, x_TD, ids_TK, weights_TK, dispatcher, layer);
  if (weights.shared) y = shared_output(*weights.shared, weights.shared_gate_RD, options.shared_gate, x_TD).add_(y);
  if (weights.output_bias.defined()) y = ops::add_bias(y, weights.output_bias);
  return {y, stats_of(routing, pass.keeps_routing)};
}

}  // namespace moe
