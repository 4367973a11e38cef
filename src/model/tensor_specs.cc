#include "model/tensor_specs.h"

#include <map>
#include <utility>

namespace moe {
namespace {

/// Collects the tensors of a model: matrices and norms, with their biases where there are any.
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void tensor(const TensorId& id, std::vector<int64_t> shape) {
    specs_.push_back({tensor_name(config_, id), std::move(shape), id});
  }
  void linear(const TensorId& id, int64_t out, int64_t in, bool has_bias) {
    tensor(id, {out, in});
    if (has_bias) tensor(id.bias(), {out});
  }
  void norm(const TensorId& id) {
    tensor(id, {config_.hidden_size});
    if (config_.norm == NormKind::kLayer) tensor(id.bias(), {config_.hidden_size});
  }
  void attention(int64_t layer) {
    const int64_t q_rows = config_.num_heads * config_.head_dim, kv_rows = config_.num_kv_heads * config_.head_dim;
    linear({TensorPart::kQuery, layer}, q_rows, config_.hidden_size, config_.qkv_bias);
    linear({TensorPart::kKey, layer}, kv_rows, config_.hidden_size, config_.qkv_bias);
    linear({TensorPart::kValue, layer}, kv_rows, config_.hidden_size, config_.qkv_bias);
    linear({TensorPart::kAttentionOut, layer}, config_.hidden_size, q_rows, config_.o_bias);
  }
  void attention_experts(int64_t layer) {
    const AttentionExperts& attention = *config_.moe->attention;
    const int64_t q_rows = attention.query_heads * config_.head_dim, kv_rows = attention.kv_heads * config_.head_dim;
    const auto router_part = [&](TensorPart part) { return TensorId(part, layer).of_attention(); };
    tensor(router_part(TensorPart::kRouter), {attention.num_routed(), config_.hidden_size});
    if (attention.has_selection_bias) tensor(router_part(TensorPart::kSelectionBias), {attention.num_routed()});
    if (attention.topk_norm == "one_plus") tensor(router_part(TensorPart::kRouterGain), {attention.num_routed()});
    for (int64_t expert = 0; expert < attention.num_experts; ++expert) {
      linear({TensorPart::kQuery, layer, expert}, q_rows, config_.hidden_size, config_.qkv_bias);
      linear({TensorPart::kKey, layer, expert}, kv_rows, config_.hidden_size, config_.qkv_bias);
      linear({TensorPart::kValue, layer, expert}, kv_rows, config_.hidden_size, config_.qkv_bias);
      linear({TensorPart::kAttentionOut, layer, expert}, config_.hidden_size, q_rows, false);
    }
    if (config_.o_bias) tensor(TensorId(TensorPart::kAttentionOut, layer).bias(), {config_.hidden_size});
  }
  void feed_forward(int64_t layer, int64_t expert, int64_t width, bool has_down_bias) {
    if (config_.is_gated) linear({TensorPart::kGate, layer, expert}, width, config_.hidden_size, config_.mlp_bias);
    linear({TensorPart::kUp, layer, expert}, width, config_.hidden_size, config_.mlp_bias);
    linear({TensorPart::kDown, layer, expert}, config_.hidden_size, width, has_down_bias);
  }
  void mixture(int64_t layer) {
    const MoeConfig& moe = *config_.moe;
    tensor({TensorPart::kRouter, layer}, {moe.num_experts, config_.hidden_size});
    if (moe.router == "mlp") tensor({TensorPart::kRouterOut, layer}, {moe.num_experts, moe.num_experts});
    if (moe.router == "product") tensor({TensorPart::kRouterGate, layer}, {moe.num_experts, config_.hidden_size});
    if (moe.router_noise == "learned")
      tensor({TensorPart::kRouterNoise, layer}, {moe.num_experts, config_.hidden_size});
    if (moe.has_selection_bias) tensor({TensorPart::kSelectionBias, layer}, {moe.num_experts});
    if (moe.topk_norm == "one_plus") tensor({TensorPart::kRouterGain, layer}, {moe.num_experts});
    for (int64_t expert = 0; expert < moe.num_experts; ++expert)
      feed_forward(layer, expert, moe.expert_width(layer, expert), false);
    if (moe.shared_widths[layer] > 0) feed_forward(layer, kSharedExpert, moe.shared_widths[layer], false);
    if (moe.has_shared_gate(layer))
      tensor({TensorPart::kSharedGate, layer}, {moe.shared_gate_rows, config_.hidden_size});
    if (config_.has_output_bias()) tensor({TensorPart::kOutputBias, layer, kNoExpert, true}, {config_.hidden_size});
  }

  std::vector<TensorSpec> take() { return std::move(specs_); }

 private:
  const ModelConfig& config_;
  std::vector<TensorSpec> specs_;
};

}  // namespace

std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config) {
  SpecList specs(config);
  specs.tensor({TensorPart::kEmbedding}, {config.vocab_size, config.hidden_size});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    specs.norm({TensorPart::kInputNorm, layer});
    if (config.has_attention_experts(layer)) {
      specs.attention_experts(layer);
    } else {
      specs.attention(layer);
    }
    if (!config.is_parallel) specs.norm({TensorPart::kPostAttentionNorm, layer});
    if (config.is_mixture(layer)) {
      specs.mixture(layer);
    } else {
      specs.feed_forward(layer, kNoExpert, config.intermediate_size, config.mlp_bias);
    }
  }
  specs.norm({TensorPart::kFinalNorm});
  if (!config.tie_word_embeddings) specs.tensor({TensorPart::kHead}, {config.vocab_size, config.hidden_size});
  if (config.head_bias) specs.tensor(TensorId{TensorPart::kHead}.bias(), {config.vocab_size});
  return specs.take();
}

bool have_same_tensors(const ModelConfig& a, const ModelConfig& b) {
  const auto shapes = [](const ModelConfig& config) {
    std::map<std::string, std::vector<int64_t>> found;
    for (const TensorSpec& spec : logical_tensor_specs(config)) found[spec.name] = spec.shape;
    return found;
  };
  return shapes(a) == shapes(b);
}

}  // namespace moe
