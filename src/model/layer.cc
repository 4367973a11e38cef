#include "model/layer.h"

#include <utility>

#include "common/error.h"
#include "model/moe/mixture_view.h"
#include "model/ops.h"

namespace moe {
namespace {

/// Of one layer, one a sequence; none where the pass has no cache.
std::vector<LayerKvCache*> caches_of(int64_t layer, const LayerContext& context) {
  std::vector<LayerKvCache*> caches;
  if (context.options.cache == nullptr) return caches;
  for (SequenceKvCache& sequence : context.options.cache->sequences) caches.push_back(&sequence.layers.at(layer));
  return caches;
}

/// An attention's result leaves in `output.x_TD`, without the stream, as an FFN's does.
void attend(const AttentionWeights& weights, int64_t layer, const at::Tensor& x_TD, const LayerContext& context,
            AttendedLayer& output) {
  output.x_TD = attention(context.config, weights, context.rope, x_TD, context.cu_seqlens, caches_of(layer, context));
}

void attend(const MoeAttention& experts, int64_t layer, const at::Tensor& x_TD, const LayerContext& context,
            AttendedLayer& output) {
  AttentionExpertsOutput attended = attention_experts(experts, layer, x_TD, context);
  output.x_TD = std::move(attended.y_TD);
  output.router = std::move(attended.stats);
}

/// An FFN's result leaves in `output.x_TD`, without the stream.
void feed(const FeedForwardWeights& weights, int64_t layer, const at::Tensor& x_TD, const LayerContext& context,
          LayerOutput& output) {
  at::Tensor activations = neuron_activations(
      weights, x_TD, [&](const at::Tensor& gates_TI) { context.observe(layer, LayerPoint::kFfnGates, gates_TI); });
  if (context.options.neuron_mask) {
    const at::Tensor mask = context.options.neuron_mask(layer, x_TD);
    if (mask.defined()) activations = activations * mask.to(activations.scalar_type());
  }
  context.observe(layer, LayerPoint::kFfnActivations, activations);
  output.x_TD = ops::linear(activations, weights.down, weights.down_bias);
}

void feed(const MoeFeedForward& ffn, int64_t layer, const at::Tensor& x_TD, const LayerContext& context,
          LayerOutput& output) {
  MOE_CHECK(!context.options.neuron_mask, "a mask is over the neurons of a dense FFN");
  MoeOutput moe =
      moe_layer(ffn.weights, ffn.options, x_TD, context.dispatcher, layer,
                {.statistics = context.options.statistics,
                 .keeps_routing = context.options.keeps_routing || context.options.mixture_observer != nullptr,
                 .noise = context.options.noise ? &*context.options.noise : nullptr,
                 .choice = context.options.choice,
                 .limit = &context.options.limit});
  if (context.options.mixture_observer) {
    context.options.mixture_observer(
        {layer, ffn.weights, ffn.options, x_TD, moe.stats.routing, moe.y_TD, context.dispatcher});
    if (!context.options.keeps_routing) moe.stats.routing = Routing();
  }
  output.x_TD = std::move(moe.y_TD);
  output.router = std::move(moe.stats);
}

}  // namespace

AttendedLayer attend_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context) {
  context.observe(layer.index, LayerPoint::kInput, x_TD);
  const at::Tensor normed = normalize(context.config, layer.input_norm, x_TD);
  AttendedLayer output;
  std::visit([&](const auto& form) { attend(form, layer.index, normed, context, output); }, layer.attention);
  // The residual is added to a branch's result in its own memory: nothing saved that for the backward.
  output.x_TD.add_(x_TD);
  context.observe(layer.index, LayerPoint::kAttended, output.x_TD);
  output.ffn_input_TD = context.config.is_parallel ? normed : normalize(context.config, layer.post_norm, output.x_TD);
  context.observe(layer.index, LayerPoint::kFfnInput, output.ffn_input_TD);
  return output;
}

LayerOutput run_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context) {
  AttendedLayer attended = attend_layer(layer, x_TD, context);
  LayerOutput output;
  output.attention_router = std::move(attended.router);
  std::visit([&](const auto& form) { feed(form, layer.index, attended.ffn_input_TD, context, output); }, layer.ffn);
  output.x_TD.add_(attended.x_TD);  // in its own memory, as above
  context.observe(layer.index, LayerPoint::kOutput, output.x_TD);
  return output;
}

}  // namespace moe
