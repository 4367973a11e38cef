#include "model/tensor_specs.h"

#include <utility>

#include "model/model_families.h"

namespace moe {
namespace {

/// Collects the tensors of a model: matrices and norms by name, with their biases where there are any.
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void tensor(const std::string& name, std::vector<int64_t> shape) { specs_.push_back({name, std::move(shape)}); }
  void linear(const std::string& name, int64_t out, int64_t in, bool has_bias) {
    tensor(name + ".weight", {out, in});
    if (has_bias) tensor(name + ".bias", {out});
  }
  void norm(const std::string& name) {
    tensor(name + ".weight", {config_.hidden_size});
    if (config_.norm == NormKind::kLayer) tensor(name + ".bias", {config_.hidden_size});
  }
  void feed_forward(const std::string& prefix, const TensorNames& names, int64_t width, bool has_down_bias) {
    if (config_.is_gated) linear(prefix + names.gate, width, config_.hidden_size, config_.mlp_bias);
    linear(prefix + names.up, width, config_.hidden_size, config_.mlp_bias);
    linear(prefix + names.down, config_.hidden_size, width, has_down_bias);
  }

  std::vector<TensorSpec> take() { return std::move(specs_); }

 private:
  const ModelConfig& config_;
  std::vector<TensorSpec> specs_;
};

/// Names within an expert, whatever the family.
const TensorNames& expert_names() {
  static const TensorNames names{
      .final_norm = "", .attention_out = "", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"};
  return names;
}

void add_moe(SpecList& specs, const ModelConfig& config, const std::string& layer, int64_t index) {
  const MoeConfig& moe = *config.moe;
  specs.tensor(layer + "mlp.router.weight", {moe.num_experts, config.hidden_size});
  for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
    specs.feed_forward(layer + "mlp.experts." + std::to_string(expert) + ".", expert_names(), moe.expert_widths[index],
                       false);
  }
  if (moe.shared_widths[index] > 0)
    specs.feed_forward(layer + "mlp.shared_expert.", expert_names(), moe.shared_widths[index], false);
  if (config.mlp_bias) specs.tensor(layer + "mlp.output_bias", {config.hidden_size});
}

}  // namespace

std::vector<TensorSpec> logical_tensor_specs(const ModelConfig& config) {
  const TensorNames& names = model_families().at(config.model_type).names;
  const int64_t q_rows = config.num_heads * config.head_dim, kv_rows = config.num_kv_heads * config.head_dim;
  SpecList specs(config);
  specs.tensor("model.embed_tokens.weight", {config.vocab_size, config.hidden_size});
  for (int64_t index = 0; index < config.num_layers; ++index) {
    const std::string layer = "model.layers." + std::to_string(index) + ".";
    specs.norm(layer + "input_layernorm");
    specs.linear(layer + "self_attn.q_proj", q_rows, config.hidden_size, config.qkv_bias);
    specs.linear(layer + "self_attn.k_proj", kv_rows, config.hidden_size, config.qkv_bias);
    specs.linear(layer + "self_attn.v_proj", kv_rows, config.hidden_size, config.qkv_bias);
    specs.linear(layer + names.attention_out, config.hidden_size, q_rows, config.o_bias);
    if (!config.is_parallel) specs.norm(layer + "post_attention_layernorm");
    if (config.moe) {
      add_moe(specs, config, layer, index);
    } else {
      specs.feed_forward(layer, names, config.intermediate_size, config.mlp_bias);
    }
  }
  specs.norm(names.final_norm);
  if (!config.tie_word_embeddings) specs.tensor("lm_head.weight", {config.vocab_size, config.hidden_size});
  if (config.head_bias) specs.tensor("lm_head.bias", {config.vocab_size});
  return specs.take();
}

}  // namespace moe
