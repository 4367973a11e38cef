#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/layer_context.h"
#include "model/model_config.h"
#include "model/moe/moe_layer.h"
#include "model/moe/token_dispatcher.h"
#include "model/parameters.h"

// T tokens, D hidden, E experts, V vocabulary, L layers.
namespace moe {

/// Token sequences laid end to end, without padding. Sequence s covers [cu_seqlens[s], cu_seqlens[s+1]); attention
/// never crosses sequences, and positions begin at 0 in each, or where a cache has it.
struct TokenBatch {
  at::Tensor tokens_T;              ///< int64
  std::vector<int64_t> cu_seqlens;  ///< [sequences + 1], from 0 to T
};

struct DecoderOutput {
  at::Tensor hidden_TD;             ///< after the final norm
  std::vector<RouterStats> router;  ///< one per layer whose FFN is a mixture, in order; empty for a dense model
  std::vector<RouterStats> attention_router;  ///< one per layer whose attention is experts, in order
};

/// A decoder of any family of model/model_families.cc, dense or MoE, on one device. Owns its parameters; knows nothing
/// of ranks beyond the dispatcher it is handed. Not for concurrent use.
class Decoder {
 public:
  /// Allocates the parameters as allocate_parameters() does, contents undefined, of the options' type on their device;
  /// with `experts` of each layer.
  Decoder(ModelConfig config, const at::TensorOptions& options, const OwnedExperts& experts);
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  const ModelConfig& config() const;
  std::vector<Parameter>& parameters();
  const std::vector<Parameter>& parameters() const;
  at::Device device() const;

  /// Of tokens that lie on the host or on the device. `dispatcher.owned_experts` must be those given at construction;
  /// else Internal.
  DecoderOutput forward(const TokenBatch& batch, TokenDispatcher& dispatcher, const ForwardOptions& options = {}) const;

  /// [T, V]; chunked by the caller where T*V is large.
  at::Tensor logits(const at::Tensor& hidden_TD) const;

  /// -log p(label) per token in max(fp32, dtype), 0 where the label is -100; labels on the host or on the device. [T];
  /// never holds more than a chunk of
  /// logits where no gradient is asked.
  at::Tensor token_losses(const at::Tensor& hidden_TD, const at::Tensor& labels_T) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
