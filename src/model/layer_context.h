#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/kv_cache.h"
#include "model/layer_statistics.h"
#include "model/model_config.h"
#include "model/moe/expert_choice.h"
#include "model/moe/router_noise.h"
#include "model/moe/token_dispatcher.h"
#include "model/moe/token_limit.h"
#include "model/rope.h"

// T tokens, D hidden, I neurons of a dense FFN.
namespace moe {

/// Where an observer looks into a layer, in the order in which the layer comes by.
enum class LayerPoint {
  kInput,           ///< [T, D] the stream that enters
  kAttended,        ///< [T, D] the stream with the attention added
  kFfnInput,        ///< [T, D] what the FFN reads, and the router of a mixture
  kFfnGates,        ///< [T, I] what the gate projection of a dense FFN gives, before silu; not where there is none
  kFfnActivations,  ///< [T, I] what the down projection of a dense FFN reads; a mixture has no such point
  kOutput,          ///< [T, D] the stream that leaves
};

/// Sees the values of every layer as they come about, on the thread that runs the pass. They are those of the
/// computation itself: they may be kept (which keeps their memory) and, where gradients are computed, asked for theirs
/// (retain_grad, register_hook), and must not be changed. A rank without tokens sees tensors of no rows. Looking
/// changes no bit.
using LayerObserver = std::function<void(int64_t layer, LayerPoint point, const at::Tensor& values)>;

/// Factors of the neurons of a layer's dense FFN, from what the FFN reads: [T, I], or [I] for all tokens alike;
/// undefined: all 1. Of any type, cast to that of the neurons. Differentiable in what it is made of; a factor of 1
/// changes no bit.
using NeuronMask = std::function<at::Tensor(int64_t layer, const at::Tensor& ffn_input_TD)>;

struct MixtureView;
/// Sees what the FFN of every layer that is a mixture did (moe/mixture_view.h), on the thread that runs the pass, also
/// on a rank without tokens. Looking changes no bit.
using MixtureObserver = std::function<void(const MixtureView& view)>;

/// What a caller of a forward pass may want of it beside the result.
struct ForwardOptions {
  KvCache* cache = nullptr;  ///< the batch's sequences continue those of the cache
  LayerObserver observer{};
  MixtureObserver mixture_observer{};     ///< set on all ranks or on none, for it may ask for collectives
  NeuronMask neuron_mask{};               ///< of a dense model
  LayerStatistics* statistics = nullptr;  ///< where layers add what they measure; null: they do not
  bool keeps_routing = false;             ///< RouterStats have how each token was routed: memory of T x E a layer
  std::optional<NoiseSource> noise{};     ///< of a training pass, for routers that have noise
  PassChoice choice{};                    ///< of the experts, FFNs' and attention's
  TokenLimit limit{};                     ///< of FFNs that are mixtures, of a training pass
};

/// What the layers of one forward pass share. Refers to what the caller owns; lives as long as the pass.
struct LayerContext {
  const ModelConfig& config;
  const RopeAngles& rope;                  ///< of the tokens' positions
  const std::vector<int64_t>& cu_seqlens;  ///< [sequences + 1]: the sequences of the batch
  TokenDispatcher& dispatcher;
  ForwardOptions options{};

  void observe(int64_t layer, LayerPoint point, const at::Tensor& values) const {
    if (options.observer) options.observer(layer, point, values);
  }
};

}  // namespace moe
