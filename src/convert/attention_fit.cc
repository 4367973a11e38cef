#include "convert/attention_fit.h"

#include <optional>

#include "convert/router_init.h"

namespace moe {
namespace {

/// Of mode gap alone: the dense attention and what is always on once more, on the dense stream. `always_on`: the
/// experts at an output scale of 0. Collective.
std::optional<StreamGap> gap_of(const AttentionFitRequest& request, const AttentionWeights& dense,
                                const MoeAttention& always_on, const at::Tensor& routed_TD, Communicator& world) {
  if (request.spec.scale().mode() != "gap") return std::nullopt;
  const LayerContext& context = request.context;
  const at::Tensor& x = request.features.attention_inputs.local_TD;
  at::Tensor wanted = attention(context.config, dense, context.rope, x, context.cu_seqlens);
  if (always_on.options.always_on > 0) wanted = wanted - attention_experts(always_on, request.layer, x, context).y_TD;
  return stream_gap({.dense_stream_TD = request.features.hidden_TD,
                     .dense_output_TD = wanted,
                     .stream_TD = request.features.converted_hidden_TD,
                     .output_TD = routed_TD},
                    world);
}

}  // namespace

LayerFit fit_attention(const AttentionFitRequest& request, MoeAttention experts, Communicator& world) {
  const LayerContext& context = request.context;
  const at::Tensor& x = request.features.converted_attention_inputs_TD;
  // The output bias is the same in both and not scaled: the fit is of what it is added to.
  AttentionWeights dense = request.dense;
  dense.o_bias = experts.weights.o_bias = at::Tensor();
  experts.options.output_scale = 1;
  const AttentionExpertsOutput out = attention_experts(experts, request.layer, x, context);
  at::Tensor wanted = attention(context.config, dense, context.rope, x, context.cu_seqlens), routed = out.y_TD, always;
  require_finite(request.source, request.layer,
                 {{"attention's router", experts.weights.router.weight_ED},
                  {"the dense attention's outputs", wanted},
                  {"the attention experts' outputs", out.y_TD}},
                 world);
  experts.options.output_scale = 0;
  if (experts.options.always_on > 0) {
    always = attention_experts(experts, request.layer, x, context).y_TD;
    routed = routed - always;
    wanted = wanted - always;
  }
  const OutputFit fit = fit_output(wanted, routed, world, always);
  const FittedScale chosen = fitted_scale({.spec = request.spec.scale(),
                                           .experts = experts.options.num_experts - experts.options.always_on,
                                           .top_k = request.spec.top_k(),
                                           .layer = request.layer,
                                           .place = request.place},
                                          fit, gap_of(request, dense, experts, routed, world));
  LayerFit found;
  found.scale = chosen.scale;
  found.relative_error = chosen.relative_error;
  found.expert_load = load_of_ranks(out.stats.tokens_per_expert_E, world);
  found.router_logit_deviation = router_logit_deviation(experts.weights.router, experts.options.router.gate,
                                                        request.features.attention_inputs, world);
  found.output_TD = routed * found.scale;
  if (always.defined()) found.output_TD.add_(always);
  if (request.dense.o_bias.defined()) found.output_TD.add_(request.dense.o_bias);
  return found;
}

}  // namespace moe
