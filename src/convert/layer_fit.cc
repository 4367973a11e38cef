#include "convert/layer_fit.h"

#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/request_check.h"
#include "convert/router_init.h"

namespace moe {

void require_finite(const FitRequest& request, std::initializer_list<NamedValues> checked, Communicator& world) {
  require_finite(request.source, request.layer, checked, world);
}

void require_finite(const std::string& source, int64_t layer, std::initializer_list<NamedValues> checked,
                    Communicator& world) {
  std::vector<at::Tensor> counts;
  for (const NamedValues& named : checked)
    counts.push_back(
        at::stack({named.values.isfinite().logical_not().sum(), at::scalar_tensor(named.values.numel(), at::kLong)}));
  at::Tensor all = at::stack(counts);
  world.all_reduce_sum(all, "values that are not finite");
  const int64_t* count = all.const_data_ptr<int64_t>();
  for (const NamedValues& named : checked) {
    const int64_t bad = *count++, values = *count++;
    if (bad == 0) continue;
    throw_agreed<InvalidArgument>(concat(
        "convert: layer ", layer, ": ", bad, " of ", values, " values of ", named.what,
        " on the calibration text are NaN or infinite, so nothing can be fitted to them. The weights of ", source,
        " are finite: its activations overflow float32, as those of a damaged or diverged model do; "
        "`moe-worker score` tells its loss on this text"));
  }
}

std::vector<int64_t> load_of_ranks(const at::Tensor& tokens_per_expert_E, Communicator& world) {
  at::Tensor load = tokens_per_expert_E.clone();
  world.all_reduce_sum(load, "calibration load");
  return {load.const_data_ptr<int64_t>(), load.const_data_ptr<int64_t>() + load.numel()};
}

FittedScale fitted_scale(const ScaleRequest& request, const OutputFit& fit, const std::optional<StreamGap>& gap) {
  const v1::ScaleSpec& spec = request.spec;
  FittedScale found;
  found.scale = gap ? gap->scale()
                : spec.mode() == "least_squares"
                    ? fit.least_squares()
                    : closed_form_scale(spec, request.experts, request.top_k, request.place);
  found.relative_error = fit.relative_error(found.scale);
  if (!std::isfinite(found.scale) || !std::isfinite(found.relative_error)) {
    throw_agreed<InvalidArgument>(concat("convert: layer ", request.layer, ": the output scale is ", found.scale,
                                         " with a relative error of ", found.relative_error,
                                         " (sums over the calibration text: y y ", fit.y_y, ", y s ", fit.y_s, ", s s ",
                                         fit.s_s, "): the activations are too large to fit"));
  }
  return found;
}

namespace {

/// Of mode gap alone: the dense layer and the shared part once more, on the dense stream. Collective.
std::optional<StreamGap> gap_of(const FitRequest& request, const FeedForwardWeights& dense,
                                const std::function<at::Tensor(const at::Tensor&)>& shared_part,
                                const at::Tensor& routed_TD, Communicator& world) {
  if (request.spec.scale().mode() != "gap") return std::nullopt;
  const at::Tensor& x = request.features.ffn_inputs.local_TD;
  at::Tensor wanted = feed_forward(dense, x);
  if (shared_part) wanted = wanted - shared_part(x);
  return stream_gap({.dense_stream_TD = request.features.hidden_TD,
                     .dense_output_TD = wanted,
                     .stream_TD = request.features.converted_hidden_TD,
                     .output_TD = routed_TD},
                    world);
}

}  // namespace

LayerFit fit_layer(const FitRequest& request, MoeWeights weights, Communicator& world) {
  const v1::ConvertSpec& spec = request.spec;
  // The output bias is the same in both and not scaled: the fit is of what it is added to. The shared part is not
  // scaled either, and is taken from what is wanted of the experts.
  FeedForwardWeights dense = request.dense;
  dense.down_bias = weights.output_bias = at::Tensor();
  std::function<at::Tensor(const at::Tensor&)> shared_part;
  if (weights.shared) {
    shared_part = [shared = *std::exchange(weights.shared, std::nullopt), gate_RD = weights.shared_gate_RD,
                   options = shared_gate_of(spec.ffn())](const at::Tensor& x_TD) {
      return shared_output(shared, gate_RD, options, x_TD);
    };
  }
  const MoeOptions options{.num_experts = spec.ffn().experts(),
                           .router = {.top_k = spec.ffn().top_k(),
                                      .topk_norm = parse_topk_norm(spec.router().topk_norm()),
                                      .score = parse_router_score(router_score(spec.router())),
                                      .gate = router_gate(spec.router())},
                           .is_gated = request.config.is_gated};
  LocalDispatcher dispatcher;
  const at::Tensor& x = request.features.converted_ffn_inputs_TD;
  const MoeOutput out = moe_layer(weights, options, x, dispatcher, request.layer);
  at::Tensor wanted = feed_forward(dense, x), shared;
  require_finite(request,
                 {{"the router", weights.router.weight_ED},
                  {"the dense FFN's outputs", wanted},
                  {"the experts' outputs", out.y_TD}},
                 world);
  if (shared_part) {
    shared = shared_part(x);
    require_finite(request, {{"the shared part's outputs", shared}}, world);
    wanted = wanted - shared;
  }
  const OutputFit fit = fit_output(wanted, out.y_TD, world, shared);
  const FittedScale chosen = fitted_scale({.spec = spec.scale(),
                                           .experts = spec.ffn().experts(),
                                           .top_k = spec.ffn().top_k(),
                                           .layer = request.layer,
                                           .place = request.place},
                                          fit, gap_of(request, dense, shared_part, out.y_TD, world));
  LayerFit found;
  found.scale = chosen.scale;
  found.relative_error = chosen.relative_error;
  found.expert_load = load_of_ranks(out.stats.tokens_per_expert_E, world);
  found.router_logit_deviation =
      router_logit_deviation(weights.router, options.router.gate, request.features.ffn_inputs, world);
  found.output_TD = out.y_TD * found.scale;
  if (shared.defined()) found.output_TD.add_(shared);
  if (request.dense.down_bias.defined()) found.output_TD.add_(request.dense.down_bias);
  return found;
}

}  // namespace moe
