#include "model/decoder.h"

#include <algorithm>
#include <map>
#include <string>

#include "common/error.h"
#include "model/block.h"
#include "model/ops.h"

namespace moe {
namespace {

/// Rows of logits held at a time where no gradient is asked.
constexpr int64_t kLogitElements = int64_t{1} << 22;

/// Ids come from a tokenizer or from a file of ids, either of which may be another model's.
void check_tokens(const at::Tensor& tokens_T, int64_t vocab_size) {
  if (!tokens_T.is_cpu() || tokens_T.numel() == 0) return;
  const auto [least, most] = tokens_T.aminmax();
  const int64_t wrong = least.item<int64_t>() < 0 ? least.item<int64_t>() : most.item<int64_t>();
  if (wrong >= 0 && wrong < vocab_size) return;
  throw InvalidArgument(concat("the token id ", wrong, " is none of the model's ", vocab_size,
                               " (`vocab_size` of config.json): the tokenizer or the ids are not this model's"));
}

}  // namespace

struct Decoder::State {
  struct Layer {
    BlockWeights block;
    FeedForwardWeights dense;  ///< of a dense model
    MoeWeights moe;            ///< of a mixture of experts
    MoeOptions options;
  };

  State(ModelConfig config_in, at::ScalarType dtype, const OwnedExperts& experts)
      : config(std::move(config_in)), parameters(allocate_parameters(config, dtype, experts)), rope(config, dtype) {}

  ModelConfig config;
  std::vector<Parameter> parameters;
  std::vector<Layer> layers;
  at::Tensor embedding, head, head_bias;
  NormWeights final_norm;
  RopeTable rope;
};

namespace {

MoeWeights moe_weights(const ModelConfig& config, int64_t layer, const TensorSource& get) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.";
  const std::string in = prefix + (config.is_gated ? "experts.gate_up_proj" : "experts.up_proj");
  MoeWeights weights;
  weights.router = get(prefix + "router.weight");
  weights.gate_up = get(in);
  weights.down = get(prefix + "experts.down_proj");
  if (config.moe->shared_widths[layer] > 0) weights.shared = shared_expert_weights(config, layer, get);
  if (config.mlp_bias) {
    weights.gate_up_bias = get(in + "_bias");
    weights.output_bias = get(prefix + "output_bias");
  }
  return weights;
}

}  // namespace

Decoder::Decoder(ModelConfig config, at::ScalarType dtype, const OwnedExperts& experts)
    : state_(std::make_unique<State>(std::move(config), dtype, experts)) {
  State& s = *state_;
  std::map<std::string, at::Tensor> by_name;
  for (const Parameter& parameter : s.parameters) by_name[parameter.name] = parameter.value;
  const TensorSource get = [&by_name](const std::string& name) { return by_name.at(name); };

  s.embedding = get("model.embed_tokens.weight");
  s.final_norm = final_norm_weights(s.config, get);
  s.head = s.config.tie_word_embeddings ? s.embedding : get("lm_head.weight");
  if (s.config.head_bias) s.head_bias = get("lm_head.bias");
  for (int64_t index = 0; index < s.config.num_layers; ++index) {
    State::Layer layer;
    layer.block = block_weights(s.config, index, get);
    if (s.config.moe) {
      const MoeConfig& moe = *s.config.moe;
      layer.moe = moe_weights(s.config, index, get);
      layer.options = {moe.num_experts, moe.top_k, moe.output_scale[index], parse_topk_norm(moe.topk_norm),
                       s.config.is_gated};
    } else {
      layer.dense = dense_ffn_weights(s.config, index, get);
    }
    s.layers.push_back(std::move(layer));
  }
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

const ModelConfig& Decoder::config() const {
  return state_->config;
}
std::vector<Parameter>& Decoder::parameters() {
  return state_->parameters;
}
const std::vector<Parameter>& Decoder::parameters() const {
  return state_->parameters;
}

void Decoder::set_requires_grad(bool requires_grad) {
  for (Parameter& parameter : state_->parameters) parameter.value.set_requires_grad(requires_grad);
}

DecoderOutput Decoder::forward(const TokenBatch& batch, TokenDispatcher& dispatcher, KvCache* cache) const {
  State& s = *state_;
  if (cache != nullptr && cache->layers.empty()) cache->layers.resize(s.layers.size());
  const RopeAngles rope = s.rope.angles(batch.positions_T, batch.cu_seqlens);
  DecoderOutput output;
  check_tokens(batch.tokens_T, s.config.vocab_size);
  at::Tensor x = at::embedding(s.embedding, batch.tokens_T);
  for (size_t index = 0; index < s.layers.size(); ++index) {
    const State::Layer& layer = s.layers[index];
    const AttendedBlock attended = attend_block(s.config, layer.block, rope, x, batch.cu_seqlens,
                                                cache != nullptr ? &cache->layers[index] : nullptr);
    // The residual is added to the FFN's result in its own memory: nothing saved that for the backward.
    if (s.config.moe) {
      MoeOutput moe =
          moe_layer(layer.moe, layer.options, attended.ffn_input_TD, dispatcher, static_cast<int64_t>(index));
      output.router.push_back(std::move(moe.stats));
      x = moe.y_TD.add_(attended.x_TD);
    } else {
      x = feed_forward(layer.dense, attended.ffn_input_TD).add_(attended.x_TD);
    }
  }
  output.hidden_TD = normalize(s.config, s.final_norm, x);
  return output;
}

at::Tensor Decoder::logits(const at::Tensor& hidden_TD) const {
  return ops::linear(hidden_TD, state_->head, state_->head_bias);
}

at::Tensor Decoder::token_losses(const at::Tensor& hidden_TD, const at::Tensor& labels_T) const {
  const int64_t tokens = hidden_TD.size(0);
  const bool needs_gradient = at::GradMode::is_enabled() && (hidden_TD.requires_grad() || state_->head.requires_grad());
  if (needs_gradient) return ops::linear_cross_entropy(hidden_TD, state_->head, labels_T, state_->head_bias);
  const int64_t chunk = std::max<int64_t>(1, kLogitElements / state_->config.vocab_size);
  at::Tensor losses = at::empty({tokens}, hidden_TD.options());
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t count = std::min(chunk, tokens - first);
    losses.narrow(0, first, count)
        .copy_(ops::linear_cross_entropy(hidden_TD.narrow(0, first, count), state_->head,
                                         labels_T.narrow(0, first, count), state_->head_bias));
  }
  return losses;
}

}  // namespace moe
