#include "model/layer_weights.h"

#include <map>
#include <utility>

namespace moe {
namespace {

NormWeights norm_weights(const ModelConfig& config, const TensorId& id, const TensorSource& get) {
  return {get(id), config.norm == NormKind::kLayer ? get(id.bias()) : at::Tensor()};
}

AttentionWeights attention_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const TensorId q{TensorPart::kQuery, layer}, k{TensorPart::kKey, layer}, v{TensorPart::kValue, layer},
      o{TensorPart::kAttentionOut, layer};
  AttentionWeights weights{get(q), get(k), get(v), get(o)};
  if (config.qkv_bias) {
    weights.q_bias = get(q.bias());
    weights.k_bias = get(k.bias());
    weights.v_bias = get(v.bias());
  }
  if (config.o_bias) weights.o_bias = get(o.bias());
  return weights;
}

/// Of a dense FFN (kNoExpert) or of the shared expert, which has no down bias.
FeedForwardWeights ffn_weights(const ModelConfig& config, int64_t layer, int64_t expert, const TensorSource& get) {
  const TensorId gate{TensorPart::kGate, layer, expert}, up{TensorPart::kUp, layer, expert},
      down{TensorPart::kDown, layer, expert};
  FeedForwardWeights weights;
  if (config.is_gated) weights.gate = get(gate);
  weights.up = get(up);
  weights.down = get(down);
  if (config.mlp_bias && config.is_gated) weights.gate_bias = get(gate.bias());
  if (config.mlp_bias) weights.up_bias = get(up.bias());
  if (config.mlp_bias && expert == kNoExpert) weights.down_bias = get(down.bias());
  return weights;
}

RouterOptions router_options(const MoeConfig& moe) {
  return {.top_k = moe.top_k,
          .topk_norm = parse_topk_norm(moe.topk_norm),
          .score = parse_router_score(moe.score),
          .gate = parse_router_gate(moe.router),
          .noise = parse_router_noise(moe.router_noise)};
}

}  // namespace

MoeFeedForward moe_feed_forward(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const MoeConfig& moe = *config.moe;
  const TensorId in{config.is_gated ? TensorPart::kGateUp : TensorPart::kUp, layer, kStack};
  MoeWeights weights;
  weights.router.weight_ED = get({TensorPart::kRouter, layer});
  if (moe.router == "mlp") weights.router.out_weight_EE = get({TensorPart::kRouterOut, layer});
  if (moe.router == "product") weights.router.gate_weight_ED = get({TensorPart::kRouterGate, layer});
  if (moe.router_noise == "learned") weights.router.noise_weight_ED = get({TensorPart::kRouterNoise, layer});
  if (moe.has_selection_bias) weights.router.selection_bias_E = get({TensorPart::kSelectionBias, layer});
  if (moe.topk_norm == "one_plus") weights.router.gain_E = get({TensorPart::kRouterGain, layer});
  weights.gate_up = get(in);
  weights.down = get({TensorPart::kDown, layer, kStack});
  if (moe.shared_widths[layer] > 0) weights.shared = ffn_weights(config, layer, kSharedExpert, get);
  if (moe.has_shared_gate(layer)) weights.shared_gate_RD = get({TensorPart::kSharedGate, layer});
  if (config.mlp_bias) weights.gate_up_bias = get(in.bias());
  if (config.has_output_bias()) weights.output_bias = get({TensorPart::kOutputBias, layer, kNoExpert, true});
  return {std::move(weights),
          {.num_experts = moe.num_experts,
           .router = router_options(moe),
           .output_scale = moe.output_scale[layer],
           .is_gated = config.is_gated,
           .shared_gate = {parse_shared_gate(moe.shared_gate), moe.shared_gate_scale}}};
}

MoeFeedForward mixture_of(const ModelConfig& config, int64_t layer, const std::vector<Parameter>& parameters) {
  std::map<TensorId, at::Tensor> by_id;
  for (const Parameter& parameter : parameters) by_id[parameter.id] = parameter.value;
  return moe_feed_forward(config, layer, [&by_id](const TensorId& id) { return by_id.at(id); });
}

MoeAttention attention_expert_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const AttentionExperts& experts = *config.moe->attention;
  const TensorId in{TensorPart::kQueryKeyValue, layer, kStack};
  AttentionExpertWeights weights;
  const auto of_router = [&](TensorPart part) { return get(TensorId(part, layer).of_attention()); };
  weights.router.weight_ED = of_router(TensorPart::kRouter);
  if (experts.has_selection_bias) weights.router.selection_bias_E = of_router(TensorPart::kSelectionBias);
  if (experts.topk_norm == "one_plus") weights.router.gain_E = of_router(TensorPart::kRouterGain);
  weights.qkv = get(in);
  weights.o = get({TensorPart::kAttentionOut, layer, kStack});
  if (config.qkv_bias) weights.qkv_bias = get(in.bias());
  if (config.o_bias) weights.o_bias = get(TensorId(TensorPart::kAttentionOut, layer).bias());
  return {std::move(weights),
          {.num_experts = experts.num_experts,
           .always_on = experts.always_on,
           .query_heads = experts.query_heads,
           .kv_heads = experts.kv_heads,
           .router = {.top_k = experts.top_k,
                      .topk_norm = parse_topk_norm(experts.topk_norm),
                      .score = parse_router_score(experts.score)},
           .output_scale = experts.output_scale[layer],
           .sees_all_tokens = experts.kv_mode == "dense"}};
}

Layer layer_weights(const ModelConfig& config, int64_t index, const TensorSource& get) {
  Layer layer;
  layer.index = index;
  layer.input_norm = norm_weights(config, {TensorPart::kInputNorm, index}, get);
  if (!config.is_parallel) layer.post_norm = norm_weights(config, {TensorPart::kPostAttentionNorm, index}, get);
  if (config.has_attention_experts(index)) {
    layer.attention = attention_expert_weights(config, index, get);
  } else {
    layer.attention = attention_weights(config, index, get);
  }
  if (config.is_mixture(index)) {
    layer.ffn = moe_feed_forward(config, index, get);
  } else {
    layer.ffn = ffn_weights(config, index, kNoExpert, get);
  }
  return layer;
}

NormWeights final_norm_weights(const ModelConfig& config, const TensorSource& get) {
  return norm_weights(config, {TensorPart::kFinalNorm}, get);
}

}  // namespace moe
