#include "convert/attention_planner.h"

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/attention_fit.h"
#include "convert/head_groups.h"
#include "convert/output_scale.h"
#include "convert/router_init.h"
#include "model/layer_weights.h"

namespace moe {
namespace {

using nlohmann::json;

TensorId attention_router_id(int64_t layer) {
  return TensorId(TensorPart::kRouter, layer).of_attention();
}

/// The dense layer's tensors by name, as they were loaded.
PlannedLayer::Models loaded_attention(const ModelConfig& config, int64_t layer, const AttentionWeights& dense) {
  std::map<std::string, at::Tensor> loaded;
  const auto add = [&](TensorPart part, const at::Tensor& weight, const at::Tensor& bias) {
    const TensorId id{part, layer};
    loaded[tensor_name(config, id)] = weight;
    loaded[tensor_name(config, id.bias())] = bias;
  };
  add(TensorPart::kQuery, dense.q, dense.q_bias);
  add(TensorPart::kKey, dense.k, dense.k_bias);
  add(TensorPart::kValue, dense.v, dense.v_bias);
  add(TensorPart::kAttentionOut, dense.o, dense.o_bias);
  return [loaded = std::move(loaded)](int64_t /*model*/, const std::string& name) { return loaded.at(name); };
}

}  // namespace

at::Tensor AttentionPlanner::plan(int64_t layer, const Layer& dense, ConvertedLayer& converted) {
  const v1::AttentionExpertsSpec& spec = conversion_.spec.attention();
  AttentionExperts& experts = *conversion_.config.moe->attention;
  if (pass_ != nullptr) {
    const LayerFeatures& features = pass_->features();
    require_finite(conversion_.request.source.path().string(), layer,
                   {{"the dense model's attention inputs", features.attention_inputs.local_TD},
                    {"the converted model's attention inputs", features.converted_attention_inputs_TD}},
                   world_);
  }
  converted.attention.emplace(group(layer, dense), conversion_.source.config(), layer);
  // Calibrated as it will be read back.
  converted.attention_router = initial_router(layer).to(conversion_.output_type(attention_router_id(layer)));
  json report = json::object();
  at::Tensor output_TD;
  if (pass_ != nullptr) {
    output_TD = fit(layer, dense, converted, report);
  } else {
    experts.output_scale[layer] =
        closed_form_scale(spec.scale(), experts.num_routed(), experts.top_k, conversion_.attention_place(layer));
  }
  report["output_scale"] = experts.output_scale[layer];
  converted.report["attention"] = std::move(report);
  return output_TD;
}

HeadGroups AttentionPlanner::group(int64_t layer, const Layer& dense) {
  const v1::AttentionExpertsSpec& spec = conversion_.spec.attention();
  HeadGroupRequest request{
      .config = conversion_.source.config(), .spec = spec, .layer = layer, .seed = conversion_.request.seed};
  std::optional<LayerContext> context;
  if (pass_ != nullptr) {
    context.emplace(pass_->context());
    request.weights = &std::get<AttentionWeights>(dense.attention);
    request.features = &pass_->features().attention_inputs;
    request.context = &*context;
  }
  return head_groupings().at(spec.grouping()).group(request, world_);
}

/// What attention.router.init makes. [experts that are chosen, hidden]
at::Tensor AttentionPlanner::initial_router(int64_t layer) {
  const v1::RouterSpec& router = conversion_.spec.attention().router();
  RouterRequest request{.experts = conversion_.config.moe->attention->num_routed(),
                        .hidden_size = conversion_.config.hidden_size,
                        .layer = layer,
                        .seed = conversion_.request.seed,
                        .scaling = router.scaling(),
                        .stream = kStreamAttentionRouter,
                        .section = "attention.",
                        .options = router_init_options(router, conversion_.spec.preset(), "attention.")};
  if (pass_ != nullptr) request.features = &pass_->features().attention_inputs;
  return router_inits().at(router.init()).make(request, world_).weights.weight_ED;
}

/// The planned experts on the text: their scale and what the report says.
at::Tensor AttentionPlanner::fit(int64_t layer, const Layer& dense, const ConvertedLayer& converted, json& report) {
  const AttentionWeights& weights = std::get<AttentionWeights>(dense.attention);
  MoeAttention experts;
  agree(world_, concat("make the attention experts of layer ", layer), [&] {
    const PlannedLayer::Models models = loaded_attention(conversion_.source.config(), layer, weights);
    experts = attention_expert_weights(conversion_.config, layer, [&](const TensorId& id) {
      if (id.part == TensorPart::kRouter) return converted.attention_router.to(at::kFloat);
      if (id.part == TensorPart::kRouterGain) return at::zeros({converted.attention_router.size(0)});
      return converted.attention->parameter(id, models);
    });
  });
  const LayerContext context = pass_->context();
  const LayerFit fitted = fit_attention({.spec = conversion_.spec.attention(),
                                         .source = conversion_.request.source.path().string(),
                                         .layer = layer,
                                         .place = conversion_.attention_place(layer),
                                         .dense = weights,
                                         .features = pass_->features(),
                                         .context = context},
                                        std::move(experts), world_);
  conversion_.config.moe->attention->output_scale[layer] = fitted.scale;
  report["relative_attention_error"] = fitted.relative_error;
  report["router_logit_deviation"] = fitted.router_logit_deviation;
  report["expert_load"] = fitted.expert_load;
  return fitted.output_TD;
}

}  // namespace moe
