#include "model/decoder.h"

#include <algorithm>
#include <map>
#include <string>

#include "common/error.h"
#include "model/ops.h"

namespace moe {
namespace {

/// Rows of logits held at a time where no gradient is asked.
constexpr int64_t kLogitElements = int64_t{1} << 22;

}  // namespace

struct Decoder::State {
  struct Layer {
    at::Tensor input_norm, post_norm;
    AttentionWeights attention;
    FeedForwardWeights dense;   ///< of a dense model
    MoeWeights moe;             ///< of a mixture of experts
    MoeOptions options;
  };

  ModelConfig config;
  std::vector<Parameter> parameters;
  std::vector<Layer> layers;
  at::Tensor embedding, final_norm, head;
  RopeTable rope;
};

namespace {

/// Allocates parameters in the order of logical tensors; the experts of a layer become two stacked tensors.
class ParameterBuilder {
 public:
  ParameterBuilder(const ModelConfig& config, at::ScalarType dtype, ExpertRange experts)
      : config_(config), options_(at::TensorOptions(dtype)), experts_(experts) {
    for (const TensorSpec& spec : logical_tensor_specs(config)) add(spec);
  }

  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  void add(const TensorSpec& spec) {
    constexpr char kLayers[] = "model.layers.";
    const int64_t layer = spec.name.rfind(kLayers, 0) == 0 ? std::stoll(spec.name.substr(sizeof kLayers - 1)) : -1;
    const size_t experts_at = spec.name.find(".mlp.experts.");
    if (experts_at == std::string::npos) {
      parameters_.push_back({.name = spec.name,
                             .value = at::empty(spec.shape, options_),
                             .decays = spec.shape.size() > 1,
                             .layer = layer});
      return;
    }
    if (layer == stacked_layer_) return;
    stacked_layer_ = layer;
    const int64_t width = config_.moe->expert_widths[layer], hidden = config_.hidden_size;
    const std::string prefix = spec.name.substr(0, experts_at) + ".mlp.experts.";
    add_experts(prefix + "gate_up_proj", {experts_.count, 2 * width, hidden}, layer, width);
    add_experts(prefix + "down_proj", {experts_.count, hidden, width}, layer, width);
  }

  void add_experts(const std::string& name, std::vector<int64_t> shape, int64_t layer, int64_t width) {
    parameters_.push_back({.name = name,
                           .value = at::zeros(shape, options_),
                           .is_expert = true,
                           .decays = true,
                           .layer = layer,
                           .experts = experts_,
                           .expert_width = width});
  }

  const ModelConfig& config_;
  at::TensorOptions options_;
  ExpertRange experts_;
  std::vector<Parameter> parameters_;
  int64_t stacked_layer_ = -1;
};

}  // namespace

Decoder::Decoder(ModelConfig config, at::ScalarType dtype, ExpertRange experts) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.config = std::move(config);
  s.parameters = ParameterBuilder(s.config, dtype, experts).take();
  s.rope = make_rope_table(s.config, s.config.max_positions, dtype);
  std::map<std::string, at::Tensor> by_name;
  for (const Parameter& parameter : s.parameters) by_name[parameter.name] = parameter.value;
  const auto get = [&by_name](const std::string& name) { return by_name.at(name); };

  s.embedding = get("model.embed_tokens.weight");
  s.final_norm = get("model.norm.weight");
  s.head = s.config.tie_word_embeddings ? s.embedding : get("lm_head.weight");
  for (int64_t index = 0; index < s.config.num_layers; ++index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const auto ffn = [&](const std::string& path) {
      return FeedForwardWeights{get(prefix + path + "gate_proj.weight"), get(prefix + path + "up_proj.weight"),
                                get(prefix + path + "down_proj.weight")};
    };
    State::Layer layer;
    layer.input_norm = get(prefix + "input_layernorm.weight");
    layer.post_norm = get(prefix + "post_attention_layernorm.weight");
    layer.attention = {get(prefix + "self_attn.q_proj.weight"), get(prefix + "self_attn.k_proj.weight"),
                       get(prefix + "self_attn.v_proj.weight"), get(prefix + "self_attn.o_proj.weight")};
    if (s.config.moe) {
      const MoeConfig& moe = *s.config.moe;
      layer.moe.router = get(prefix + "mlp.router.weight");
      layer.moe.gate_up = get(prefix + "mlp.experts.gate_up_proj");
      layer.moe.down = get(prefix + "mlp.experts.down_proj");
      if (moe.shared_widths[index] > 0) layer.moe.shared = ffn("mlp.shared_expert.");
      layer.options = {moe.num_experts, moe.top_k, moe.output_scale[index], parse_topk_norm(moe.topk_norm)};
    } else {
      layer.dense = ffn("mlp.");
    }
    s.layers.push_back(std::move(layer));
  }
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

const ModelConfig& Decoder::config() const { return state_->config; }
std::vector<Parameter>& Decoder::parameters() { return state_->parameters; }
const std::vector<Parameter>& Decoder::parameters() const { return state_->parameters; }

void Decoder::set_requires_grad(bool requires_grad) {
  for (Parameter& parameter : state_->parameters) parameter.value.set_requires_grad(requires_grad);
}

DecoderOutput Decoder::forward(const TokenBatch& batch, TokenDispatcher& dispatcher, KvCache* cache) const {
  const State& s = *state_;
  if (cache != nullptr && cache->layers.empty()) cache->layers.resize(s.layers.size());
  DecoderOutput output;
  at::Tensor x = at::embedding(s.embedding, batch.tokens_T);
  for (size_t index = 0; index < s.layers.size(); ++index) {
    const State::Layer& layer = s.layers[index];
    // The residual is added to a branch's result in its own memory: nothing saved that for the backward.
    x = attention(s.config, layer.attention, s.rope, ops::rms_norm(x, layer.input_norm, s.config.rms_norm_eps), batch.positions_T,
                  batch.cu_seqlens, cache != nullptr ? &cache->layers[index] : nullptr)
            .add_(x);
    const at::Tensor normed = ops::rms_norm(x, layer.post_norm, s.config.rms_norm_eps);
    if (s.config.moe) {
      MoeOutput moe = moe_layer(layer.moe, layer.options, normed, dispatcher, static_cast<int64_t>(index));
      output.router.push_back(std::move(moe.stats));
      x = moe.y_TD.add_(x);
    } else {
      x = feed_forward(layer.dense, normed).add_(x);
    }
  }
  output.hidden_TD = ops::rms_norm(x, s.final_norm, s.config.rms_norm_eps);
  return output;
}

at::Tensor Decoder::logits(const at::Tensor& hidden_TD) const { return ops::linear(hidden_TD, state_->head); }

at::Tensor Decoder::token_losses(const at::Tensor& hidden_TD, const at::Tensor& labels_T) const {
  const int64_t tokens = hidden_TD.size(0);
  const bool needs_gradient = at::GradMode::is_enabled() && (hidden_TD.requires_grad() || state_->head.requires_grad());
  if (needs_gradient) return ops::linear_cross_entropy(hidden_TD, state_->head, labels_T);
  const int64_t chunk = std::max<int64_t>(1, kLogitElements / state_->config.vocab_size);
  at::Tensor losses = at::empty({tokens}, hidden_TD.options());
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t count = std::min(chunk, tokens - first);
    losses.narrow(0, first, count)
        .copy_(ops::linear_cross_entropy(hidden_TD.narrow(0, first, count), state_->head, labels_T.narrow(0, first, count)));
  }
  return losses;
}

}  // namespace moe
