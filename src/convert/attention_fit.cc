#include "convert/attention_fit.h"

#include "convert/router_init.h"

namespace moe {

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
  if (experts.options.always_on > 0) {
    experts.options.output_scale = 0;
    always = attention_experts(experts, request.layer, x, context).y_TD;
    routed = routed - always;
    wanted = wanted - always;
  }
  const FittedScale chosen =
      fitted_scale(request.spec.scale(), experts.options.num_experts - experts.options.always_on, request.spec.top_k(),
                   fit_output(wanted, routed, world, always), request.layer);
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
