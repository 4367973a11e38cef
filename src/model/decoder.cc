#include "model/decoder.h"

#include <algorithm>
#include <map>
#include <utility>

#include "common/error.h"
#include "model/device.h"
#include "model/kernel_views.h"
#include "model/layer.h"
#include "model/layer_weights.h"
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

/// A cache that is empty begins with the batch's sequences.
void open_cache(KvCache& cache, size_t sequences, size_t layers) {
  if (cache.sequences.empty()) cache.sequences.resize(sequences);
  MOE_CHECK(cache.sequences.size() == sequences, "a batch of ", sequences, " sequences continues a cache of ",
            cache.sequences.size());
  for (SequenceKvCache& sequence : cache.sequences) {
    if (sequence.layers.empty()) sequence.layers.resize(layers);
  }
}

/// Positions of the first token of each sequence; empty: all 0.
std::vector<int64_t> first_positions(const KvCache* cache) {
  std::vector<int64_t> first;
  if (cache == nullptr) return first;
  for (const SequenceKvCache& sequence : cache->sequences) first.push_back(sequence.tokens);
  return first;
}

/// Rows that a dispatcher sends by other experts than lie here would meet the wrong ones, where counts agree.
void check_served(int64_t num_experts, const ExpertRange& owned, const TokenDispatcher& dispatcher) {
  const ExpertRange served = dispatcher.owned_experts(num_experts);
  MOE_CHECK(served.first == owned.first && served.count == owned.count, "the dispatcher's rank owns ", served.count,
            " experts from ", served.first, " on, the decoder has ", owned.count, " from ", owned.first, " on");
}

void check_dispatcher(const ModelConfig& config, const OwnedExperts& owned, const TokenDispatcher& dispatcher) {
  if (!config.moe) return;
  check_served(config.moe->num_experts, owned.ffn, dispatcher);
  if (config.moe->attention) check_served(config.moe->attention->num_experts, owned.attention, dispatcher);
}

void count_tokens(KvCache& cache, const std::vector<int64_t>& cu_seqlens) {
  for (size_t s = 0; s < cache.sequences.size(); ++s) cache.sequences[s].tokens += cu_seqlens[s + 1] - cu_seqlens[s];
}

}  // namespace

struct Decoder::State {
  State(ModelConfig config_in, const at::TensorOptions& options, const OwnedExperts& experts_in)
      : config(std::move(config_in)),
        experts(experts_in),
        parameters(allocate_parameters(config, options, experts)),
        rope(config, options) {}

  ModelConfig config;
  OwnedExperts experts;
  std::vector<Parameter> parameters;
  std::vector<Layer> layers;
  at::Tensor embedding, head, head_bias;
  NormWeights final_norm;
  RopeTable rope;
};

Decoder::Decoder(ModelConfig config, const at::TensorOptions& options, const OwnedExperts& experts)
    : state_(std::make_unique<State>(std::move(config), options, experts)) {
  State& s = *state_;
  std::map<TensorId, at::Tensor> by_id;
  for (const Parameter& parameter : s.parameters) by_id[parameter.id] = parameter.value;
  const TensorSource get = [&by_id](const TensorId& id) { return by_id.at(id); };

  s.embedding = get({TensorPart::kEmbedding});
  s.final_norm = final_norm_weights(s.config, get);
  s.head = s.config.tie_word_embeddings ? s.embedding : get({TensorPart::kHead});
  if (s.config.head_bias) s.head_bias = get(TensorId{TensorPart::kHead}.bias());
  for (int64_t index = 0; index < s.config.num_layers; ++index) s.layers.push_back(layer_weights(s.config, index, get));
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

const ModelConfig& Decoder::config() const {
  return state_->config;
}
std::vector<Parameter>& Decoder::parameters() {
  return state_->parameters;
}
const std::vector<Parameter>& Decoder::parameters() const {
  return state_->parameters;
}

at::Device Decoder::device() const {
  return state_->embedding.device();
}

DecoderOutput Decoder::forward(const TokenBatch& batch, TokenDispatcher& dispatcher,
                               const ForwardOptions& options) const {
  State& s = *state_;
  check_dispatcher(s.config, s.experts, dispatcher);
  if (options.cache != nullptr) open_cache(*options.cache, batch.cu_seqlens.size() - 1, s.layers.size());
  const RopeAngles rope = s.rope.angles(batch.cu_seqlens, first_positions(options.cache));
  const LayerContext context{s.config, rope, batch.cu_seqlens, dispatcher, options};
  DecoderOutput output;
  check_tokens(batch.tokens_T, s.config.vocab_size);
  at::Tensor x = ops::embedding(s.embedding, on_device(batch.tokens_T, device()));
  for (const Layer& layer : s.layers) {
    LayerOutput ran = run_layer(layer, x, context);
    x = std::move(ran.x_TD);
    if (ran.router) output.router.push_back(*std::move(ran.router));
    if (ran.attention_router) output.attention_router.push_back(*std::move(ran.attention_router));
  }
  output.hidden_TD = normalize(s.config, s.final_norm, x);
  if (options.cache != nullptr) count_tokens(*options.cache, batch.cu_seqlens);
  return output;
}

at::Tensor Decoder::logits(const at::Tensor& hidden_TD) const {
  return ops::linear(hidden_TD, state_->head, state_->head_bias);
}

at::Tensor Decoder::token_losses(const at::Tensor& hidden_TD, const at::Tensor& given_T) const {
  const int64_t tokens = hidden_TD.size(0);
  const at::Tensor labels_T = on_device(given_T, device());
  const bool needs_gradient = at::GradMode::is_enabled() && (hidden_TD.requires_grad() || state_->head.requires_grad());
  if (needs_gradient) return ops::linear_cross_entropy(hidden_TD, state_->head, labels_T, state_->head_bias);
  const int64_t chunk = std::max<int64_t>(1, kLogitElements / state_->config.vocab_size);
  at::Tensor losses = at::empty({tokens}, hidden_TD.options().dtype(sum_type(hidden_TD.scalar_type())));
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t count = std::min(chunk, tokens - first);
    losses.narrow(0, first, count)
        .copy_(ops::linear_cross_entropy(hidden_TD.narrow(0, first, count), state_->head,
                                         labels_T.narrow(0, first, count), state_->head_bias));
  }
  return losses;
}

}  // namespace moe
