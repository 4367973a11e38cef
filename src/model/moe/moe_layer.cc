#include "model/moe/moe_layer.h"

#include <utility>

#include "model/ops.h"

namespace moe {
namespace {

/// How often each id of [0, count) is there. Not at::bincount, which reads the largest back from the device.
at::Tensor count_ids(const at::Tensor& ids, int64_t count) {
  const at::Tensor flat = ids.flatten();
  return at::zeros({count}, flat.options()).scatter_add_(0, flat, at::ones_like(flat));
}

}  // namespace

MoeOutput moe_layer(const MoeWeights& weights, const MoeOptions& options, const at::Tensor& x_TD,
                    TokenDispatcher& dispatcher, int64_t layer, const MoePass& pass) {
  at::Tensor draws_TE;
  if (pass.noise != nullptr && options.router.noise != RouterNoise::kNone) {
    draws_TE =
        noise_draws(*pass.noise, options.router.noise, layer, x_TD.size(0), options.num_experts).to(x_TD.device());
  }
  Routing routing = route(x_TD, weights.router, options.router, draws_TE);
  if (pass.statistics != nullptr) {
    pass.statistics->add("router_entropy", at::special_entr(routing.probabilities_TE.detach()).sum(at::kDouble),
                         x_TD.size(0));
    pass.statistics->add("router_top_probability", routing.probabilities_TE.detach().amax(1).sum(at::kDouble),
                         x_TD.size(0));
  }
  // The scale goes into the weights: T x K products instead of T x D.
  const at::Tensor weights_TK =
      options.output_scale == 1 ? routing.weights_TK : routing.weights_TK * options.output_scale;
  const DispatchedTokens dispatched =
      dispatcher.dispatch(x_TD, routing.expert_ids_TK, weights_TK, options.num_experts, layer);
  const at::Tensor in =
      ops::grouped_linear(dispatched.rows_RD, weights.gate_up, dispatched.rows_per_expert, weights.gate_up_bias);
  const at::Tensor hidden = options.is_gated ? ops::swiglu(in) : ops::gelu_new(in);
  at::Tensor y =
      dispatcher.combine(ops::grouped_linear(hidden, weights.down, dispatched.rows_per_expert), dispatched, layer);
  if (weights.shared) y = feed_forward(*weights.shared, x_TD).add_(y);
  if (weights.output_bias.defined()) y = ops::add_bias(y, weights.output_bias);
  RouterStats stats{count_ids(routing.expert_ids_TK, options.num_experts), routing.probabilities_TE.sum(0)};
  if (pass.keeps_routing) stats.routing = std::move(routing);
  return {y, std::move(stats)};
}

}  // namespace moe
