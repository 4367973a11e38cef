#include "convert/layer_planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "comm/agreement.h"
#include "common/error.h"
#include "convert/layer_aligner.h"
#include "convert/output_scale.h"
#include "convert/request_check.h"
#include "model/layer.h"
#include "model/layer_weights.h"
#include "model/moe/moe_layer.h"

namespace moe {
namespace {

using nlohmann::json;

bool is_even(const std::vector<int64_t>& widths) {
  return std::all_of(widths.begin(), widths.end(), [&](int64_t width) { return width == widths.front(); });
}

/// Where they are not those that the number of experts says.
void add_widths(const LayerWidths& widths, json& layer_report) {
  if (!is_even(widths.experts)) layer_report["expert_widths"] = widths.experts;
  if (widths.shared > 0) layer_report["shared_width"] = widths.shared;
}

/// Its matrices.
RouterWeights in_type(RouterWeights router, at::ScalarType type) {
  for (at::Tensor* const matrix : {&router.weight_ED, &router.out_weight_EE, &router.gate_weight_ED}) {
    if (matrix->defined()) *matrix = matrix->to(type);
  }
  return router;
}

}  // namespace

void LayerPlanner::plan(int64_t layer) {
  const bool has_attention_experts = conversion_.config.has_attention_experts(layer),
             sees_text = pass_ != nullptr && conversion_.is_before_experts(layer);
  const Layer dense = load(layer);
  ConvertedLayer converted{.report = {{"layer", layer}}};
  if (has_attention_experts) {
    const at::Tensor attention_TD = attention_.plan(layer, dense, converted);
    agree(world_, concat("attend in layer ", layer), [&] {
      if (!sees_text) return;
      pass_->attend(dense);
      pass_->attend_converted(dense, attention_TD);
    });
  }
  if (conversion_.is_mixture[layer]) {
    plan_ffn(layer, dense, converted);
  } else {
    // The text goes through it as it is, to the experts behind it.
    agree(world_, concat("pass layer ", layer), [&] {
      if (!sees_text) return;
      if (!has_attention_experts) pass_->attend_converted(dense);
      pass_->advance_unchanged(dense);
    });
    converted.report["dense"] = true;
  }
  if (prompts_ != nullptr && conversion_.is_before_experts(layer))
    agree(world_, concat("prompts through layer ", layer), [&] { prompts_->advance(dense); });
  conversion_.layers.push_back(std::move(converted));
}

Layer LayerPlanner::load(int64_t layer) {
  const bool is_before_experts = conversion_.is_before_experts(layer),
             sees_text = pass_ != nullptr && is_before_experts,
             sees_prompts = prompts_ != nullptr && prompts_->reads_layers() && is_before_experts;
  Layer dense;
  agree(world_, concat("load layer ", layer), [&] {
    if (!sees_text && !sees_prompts && !(conversion_.is_mixture[layer] && conversion_.method.needs.weights)) return;
    dense = conversion_.source.layer(layer);
    conversion_.release_layer(layer);
    if (!sees_text) return;
    if (conversion_.config.has_attention_experts(layer)) {
      pass_->enter(dense);
    } else {
      pass_->attend(dense);
    }
  });
  return dense;
}

void LayerPlanner::plan_ffn(int64_t layer, const Layer& dense, ConvertedLayer& converted) {
  const v1::ConvertSpec& spec = conversion_.spec;
  if (pass_ != nullptr) {
    require_finite(fit_request(layer, dense), {{"the dense model's FFN inputs", pass_->features().ffn_inputs.local_TD}},
                   world_);
  }
  const std::optional<Importance> importance = pass_ != nullptr ? pass_->take_importance(layer) : std::nullopt;
  const Importance* const measured = importance ? &*importance : nullptr;
  if (measured != nullptr && !std::isnan(measured->halves_correlation))
    converted.report["importance_halves_correlation"] = measured->halves_correlation;
  PlannedLayer planned = planned_layer(layer, dense, measured);
  if (pass_ != nullptr) attend_converted(planned, layer, dense);
  json& report = converted.report;
  // Calibrated as it will be read back.
  converted.router = in_type(first_router(planned, layer, dense, measured, report),
                             conversion_.output_type({TensorPart::kRouter, layer}));
  converted.planned.emplace(std::move(planned));
  add_widths(converted.planned->widths(), report);
  if (const std::optional<double> condition = converted.planned->plan().router_condition)
    report["router_condition"] = *condition;
  const double scale = pass_ != nullptr ? fit(converted, layer, dense)
                                        : closed_form_scale(spec.scale(), spec.ffn().experts(), spec.ffn().top_k(),
                                                            conversion_.ffn_place(layer));
  conversion_.config.moe->output_scale[layer] = scale;
  report["output_scale"] = scale;
}

/// What the method makes of the layer.
PlannedLayer LayerPlanner::planned_layer(int64_t layer, const Layer& dense, const Importance* importance) {
  const v1::ConvertSpec& spec = conversion_.spec;
  const ConversionMethod& method = conversion_.method;
  const ModelConfig& config = conversion_.source.config();
  const LayerInputs inputs{.config = config,
                           .spec = spec,
                           .layer = layer,
                           .seed = conversion_.request.seed,
                           .dense = pass_ != nullptr || method.needs.weights ? &dense : nullptr,
                           .features = pass_ != nullptr ? &pass_->features() : nullptr,
                           .importance = importance,
                           .prompts = prompts_ != nullptr ? &prompts_->states() : nullptr,
                           .options = conversion_.options};
  LayerPlan plan = method.plan(inputs, world_);
  check_plan(plan, {.layer = layer,
                    .experts = spec.ffn().experts(),
                    .neurons = config.intermediate_size,
                    .hidden_size = config.hidden_size,
                    .models = 1 + static_cast<int64_t>(conversion_.others.size()),
                    .has_router = method.has_router,
                    .is_partition = makes_partition(method, spec.ffn())});
  PlannedLayer planned(std::move(plan), config, layer);
  const LayerWidths said = method.widths ? method.widths(config, spec) : LayerWidths();
  MOE_CHECK(said.experts.empty() || planned.widths() == said, "the method said other widths than it planned (layer ",
            layer, ")");
  return planned;
}

/// The converted stream through the attention that the plan leaves; that of attention experts is behind it already.
void LayerPlanner::attend_converted(const PlannedLayer& planned, int64_t layer, const Layer& dense) {
  agree(world_, concat("attend layer ", layer), [&] {
    if (conversion_.config.has_attention_experts(layer)) return;
    if (planned.plan().others.empty()) return pass_->attend_converted(dense);
    const ModelConfig& config = conversion_.source.config();
    const PlannedLayer::Models models = float_models(layer, std::get<FeedForwardWeights>(dense.ffn));
    const Layer converted = layer_weights(config, layer, [&](const TensorId& id) {
      const std::string name = tensor_name(config, id);
      return planned.makes(name) ? planned.tensor(name, at::kFloat, models) : models(0, name);
    });
    pass_->attend_converted(converted, {}, /*is_another=*/true);
  });
  require_finite(fit_request(layer, dense),
                 {{"the converted model's FFN inputs", pass_->features().converted_ffn_inputs_TD}}, world_);
}

/// The planned layer on the text: its scale, its alignment, what the report says, and the converted stream behind it.
double LayerPlanner::fit(ConvertedLayer& made, int64_t layer, const Layer& dense) {
  MoeWeights weights;
  agree(world_, concat("make the experts of layer ", layer),
        [&] { weights = made.planned->mixture(float_models(layer, std::get<FeedForwardWeights>(dense.ffn))); });
  weights.router = in_type(made.router, at::kFloat);
  if (const MoeConfig& moe = *conversion_.config.moe; weights.shared && moe.shared_gate != "none")
    weights.shared_gate_RD = at::zeros({moe.shared_gate_rows, conversion_.config.hidden_size});
  const LayerFit fitted = fit_layer(fit_request(layer, dense), std::move(weights), world_);
  made.report["relative_ffn_error"] = fitted.relative_error;
  made.report["router_logit_deviation"] = fitted.router_logit_deviation;
  made.report["expert_load"] = fitted.expert_load;
  if (conversion_.spec.has_reconstruction()) {
    // What the layer will give is not known yet, and the next one is trained on what the dense model gives it.
    pass_->advance_unchanged(dense);
    return fitted.scale;
  }
  at::Tensor output_TD = fitted.output_TD;
  if (alignment_of(conversion_.spec) != "none") {
    const auto& ffn = std::get<FeedForwardWeights>(dense.ffn);
    made.alignment = align_layer(conversion_, *pass_, ffn, output_TD, world_);
    made.report["alignment"] = made.alignment->describe();
    output_TD = made.alignment->align(output_TD, ffn.down_bias);
  }
  pass_->advance(output_TD);
  return fitted.scale;
}

RouterWeights LayerPlanner::first_router(const PlannedLayer& planned, int64_t layer, const Layer& dense,
                                         const Importance* importance, json& report) {
  const LayerPlan& plan = planned.plan();
  if (conversion_.method.has_router) {
    const bool is_product = router_gate(conversion_.spec.router()) == RouterGate::kProduct;
    MOE_CHECK(plan.router_gate_ED.defined() == is_product, "the method's router is of another gate");
    return {.weight_ED = plan.router_ED, .gate_weight_ED = plan.router_gate_ED};
  }
  const InitialRouter made = initial_router(planned, layer, dense, importance);
  if (made.lessons) {
    report["router_recall"] = made.lessons->recall;
    report["router_distillation"] = {{"losses", made.lessons->losses}, {"recalls", made.lessons->recalls}};
  }
  return in_groups_of(made.weights, conversion_.router_group());
}

InitialRouter LayerPlanner::initial_router(const PlannedLayer& planned, int64_t layer, const Layer& dense,
                                           const Importance* importance) {
  const v1::RouterSpec& router = conversion_.spec.router();
  const RouterInit& init = router_inits().at(router.init());
  RouterRequest request{.experts = conversion_.router_rows(),
                        .hidden_size = conversion_.config.hidden_size,
                        .layer = layer,
                        .seed = conversion_.request.seed,
                        .scaling = router.scaling(),
                        .gate = router_gate(router),
                        .options = router_init_options(router, conversion_.spec.preset()),
                        .top_k = conversion_.spec.ffn().top_k()};
  if (pass_ != nullptr) request.features = &pass_->features().ffn_inputs;
  if (init.needs_experts) {
    request.dense = &std::get<FeedForwardWeights>(dense.ffn);
    for (const ExpertPlan& expert : planned.plan().experts) request.neurons.push_back(neurons_in(expert));
  }
  // Those by which a method grouped the tokens are not looked for again.
  if (importance != nullptr && importance->group_rows_GD.defined() &&
      importance->group_rows_GD.size(0) == request.experts) {
    request.centroids_ED = importance->group_rows_GD;
  }
  return init.make(request, world_);
}

FitRequest LayerPlanner::fit_request(int64_t layer, const Layer& dense) const {
  return {conversion_.source.config(),
          conversion_.spec,
          conversion_.request.source.path().string(),
          layer,
          conversion_.ffn_place(layer),
          std::get<FeedForwardWeights>(dense.ffn),
          pass_->features()};
}

/// Tensors of the models in float; those of the layer at hand as they were loaded.
PlannedLayer::Models LayerPlanner::float_models(int64_t layer, const FeedForwardWeights& ffn) const {
  const auto name = [&](TensorPart part, bool is_bias = false) {
    return tensor_name(conversion_.source.config(), {part, layer, kNoExpert, is_bias});
  };
  std::map<std::string, at::Tensor> loaded{
      {name(TensorPart::kUp), ffn.up}, {name(TensorPart::kUp, true), ffn.up_bias}, {name(TensorPart::kDown), ffn.down}};
  if (ffn.gate.defined()) {
    loaded[name(TensorPart::kGate)] = ffn.gate;
    loaded[name(TensorPart::kGate, true)] = ffn.gate_bias;
  }
  return [this, loaded = std::move(loaded)](int64_t model, const std::string& wanted) {
    if (model > 0) return conversion_.others.at(model - 1).tensor(wanted);
    const auto found = loaded.find(wanted);
    return found != loaded.end() ? found->second : conversion_.source.tensor(wanted);
  };
}

}  // namespace moe
