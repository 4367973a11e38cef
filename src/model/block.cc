#include "model/block.h"

#include "model/model_families.h"
#include "model/ops.h"

namespace moe {
namespace {

std::string layer_prefix(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

NormWeights norm_weights(const ModelConfig& config, const std::string& name, const TensorSource& get) {
  return {get(name + ".weight"), config.norm == NormKind::kLayer ? get(name + ".bias") : at::Tensor()};
}

FeedForwardWeights ffn_weights(const ModelConfig& config, const std::string& gate, const std::string& up,
                               const std::string& down, bool has_down_bias, const TensorSource& get) {
  FeedForwardWeights weights;
  if (config.is_gated) weights.gate = get(gate + ".weight");
  weights.up = get(up + ".weight");
  weights.down = get(down + ".weight");
  if (config.mlp_bias && config.is_gated) weights.gate_bias = get(gate + ".bias");
  if (config.mlp_bias) weights.up_bias = get(up + ".bias");
  if (has_down_bias) weights.down_bias = get(down + ".bias");
  return weights;
}

}  // namespace

at::Tensor normalize(const ModelConfig& config, const NormWeights& weights, const at::Tensor& x_TD) {
  return config.norm == NormKind::kLayer ? ops::layer_norm(x_TD, weights.weight, weights.bias, config.norm_eps)
                                         : ops::rms_norm(x_TD, weights.weight, config.norm_eps);
}

BlockWeights block_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const std::string prefix = layer_prefix(layer),
                    out = prefix + model_families().at(config.model_type).names.attention_out;
  const auto matrix = [&](const char* part) { return get(prefix + "self_attn." + part + ".weight"); };
  const auto bias = [&](const char* part) {
    return config.qkv_bias ? get(prefix + "self_attn." + part + ".bias") : at::Tensor();
  };
  BlockWeights weights;
  weights.input_norm = norm_weights(config, prefix + "input_layernorm", get);
  if (!config.is_parallel) weights.post_norm = norm_weights(config, prefix + "post_attention_layernorm", get);
  weights.attention = {
      matrix("q_proj"), matrix("k_proj"), matrix("v_proj"), get(out + ".weight"),
      bias("q_proj"),   bias("k_proj"),   bias("v_proj"),   config.o_bias ? get(out + ".bias") : at::Tensor()};
  return weights;
}

FeedForwardWeights dense_ffn_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const TensorNames& names = model_families().at(config.model_type).names;
  const std::string prefix = layer_prefix(layer);
  return ffn_weights(config, prefix + names.gate, prefix + names.up, prefix + names.down, config.mlp_bias, get);
}

FeedForwardWeights shared_expert_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const std::string prefix = layer_prefix(layer) + "mlp.shared_expert.";
  return ffn_weights(config, prefix + "gate_proj", prefix + "up_proj", prefix + "down_proj", false, get);
}

NormWeights final_norm_weights(const ModelConfig& config, const TensorSource& get) {
  return norm_weights(config, model_families().at(config.model_type).names.final_norm, get);
}

AttendedBlock attend_block(const ModelConfig& config, const BlockWeights& weights, const RopeAngles& rope,
                           const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens, LayerKvCache* cache) {
  const at::Tensor normed = normalize(config, weights.input_norm, x_TD);
  // The residual is added to a branch's result in its own memory: nothing saved that for the backward.
  const at::Tensor x = attention(config, weights.attention, rope, normed, cu_seqlens, cache).add_(x_TD);
  return {x, config.is_parallel ? normed : normalize(config, weights.post_norm, x)};
}

}  // namespace moe
