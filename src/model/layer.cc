#include "model/layer.h"

#include <utility>

namespace moe {
namespace {

/// Of one layer, one a sequence; none where the pass has no cache.
std::vector<LayerKvCache*> caches_of(int64_t layer, const LayerContext& context) {
  std::vector<LayerKvCache*> caches;
  if (context.options.cache == nullptr) return caches;
  for (SequenceKvCache& sequence : context.options.cache->sequences) caches.push_back(&sequence.layers.at(layer));
  return caches;
}

at::Tensor attend(const AttentionWeights& weights, int64_t layer, const at::Tensor& x_TD, const LayerContext& context) {
  return attention(context.config, weights, context.rope, x_TD, context.cu_seqlens, caches_of(layer, context));
}

/// An FFN's result leaves in `output.x_TD`, without the stream.
void feed(const FeedForwardWeights& weights, int64_t /*layer*/, const at::Tensor& x_TD, const LayerContext& /*context*/,
          LayerOutput& output) {
  output.x_TD = feed_forward(weights, x_TD);
}

void feed(const MoeFeedForward& ffn, int64_t layer, const at::Tensor& x_TD, const LayerContext& context,
          LayerOutput& output) {
  MoeOutput moe = moe_layer(ffn.weights, ffn.options, x_TD, context.dispatcher, layer);
  output.x_TD = std::move(moe.y_TD);
  output.routers.push_back(std::move(moe.stats));
}

}  // namespace

AttendedLayer attend_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context) {
  const at::Tensor normed = normalize(context.config, layer.input_norm, x_TD);
  at::Tensor x =
      std::visit([&](const auto& form) { return attend(form, layer.index, normed, context); }, layer.attention);
  // The residual is added to a branch's result in its own memory: nothing saved that for the backward.
  x.add_(x_TD);
  return {x, context.config.is_parallel ? normed : normalize(context.config, layer.post_norm, x)};
}

LayerOutput run_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context) {
  const AttendedLayer attended = attend_layer(layer, x_TD, context);
  LayerOutput output;
  std::visit([&](const auto& form) { feed(form, layer.index, attended.ffn_input_TD, context, output); }, layer.ffn);
  output.x_TD.add_(attended.x_TD);  // in its own memory, as above
  return output;
}

}  // namespace moe
