#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "model/model_config.h"

namespace moe {

/// The parts that a model is made of, one a matrix or norm.
enum class TensorPart {
  // of the model
  kEmbedding,
  kFinalNorm,
  kHead,
  // of a layer
  kInputNorm,
  kQuery,          ///< of dense attention or of one of its experts
  kKey,            ///< the same
  kValue,          ///< the same
  kAttentionOut,   ///< the same
  kQueryKeyValue,  ///< of an expert of attention, in one matrix: a parameter in memory, in no file
  kPostAttentionNorm,
  kRouter,         ///< of a router: its matrix, or the first of two
  kRouterOut,      ///< of a router of two layers: the second
  kRouterGate,     ///< of a product router: the rows within silu
  kRouterNoise,    ///< of learned noise: what its width comes from; of use in training alone
  kSelectionBias,  ///< of a router: one an expert, for the choice alone; moved by the balance of a training
  kRouterGain,     ///< of topk_norm one_plus: one an expert
  kSharedGate,     ///< what weighs the shared expert, token by token
  kGate,           ///< of a gated FFN: the dense one, an expert or the shared expert
  kUp,             ///< the same
  kDown,           ///< the same
  kGateUp,         ///< gate and up in one matrix, the gate's rows first: a parameter in memory, in no file
  kOutputBias,     ///< of a mixture's FFN: added once per token
};

/// What TensorId::expert says beside the number of an expert.
inline constexpr int64_t kNoExpert = -1;      ///< of the layer itself
inline constexpr int64_t kSharedExpert = -2;  ///< of the expert that sees every token
inline constexpr int64_t kStack = -3;         ///< the experts of a rank, one after another: a parameter in memory

/// Which tensor of a model. Code asks an id what a tensor is; names are made from ids (tensor_name) and never read
/// back. Made of a part at least: there is no id that stands for none. No Torch.
struct TensorId {
  TensorPart part;
  int64_t layer;   ///< -1: of the model
  int64_t expert;  ///< global number of an expert of the FFN or of attention, or one of the constants above
  bool is_bias;    ///< of the part's rows, or of a LayerNorm
  bool routes_attention = false;  ///< of a router: attention's, not the FFN's

  TensorId(TensorPart part_in, int64_t layer_in = -1, int64_t expert_in = kNoExpert, bool is_bias_in = false)
      : part(part_in), layer(layer_in), expert(expert_in), is_bias(is_bias_in) {}

  bool is_routed() const { return expert >= 0; }
  bool is_of_attention() const;
  /// The bias beside this weight.
  TensorId bias() const { return {part, layer, expert, true}; }
  /// The same part of the router of attention's experts.
  TensorId of_attention() const {
    TensorId id = *this;
    id.routes_attention = true;
    return id;
  }

  auto operator<=>(const TensorId&) const = default;
};

/// The trained tensors of routers: all but selection biases, which their load moves. The gate of the shared expert is
/// one of them: a conversion leaves it at 0, and it is trained and frozen together with the router.
constexpr bool is_of_router(TensorPart part) {
  return part == TensorPart::kRouter || part == TensorPart::kRouterOut || part == TensorPart::kRouterGate ||
         part == TensorPart::kRouterNoise || part == TensorPart::kRouterGain || part == TensorPart::kSharedGate;
}

/// The tensor's name in model directories and checkpoints, whose family-dependent parts are those of the config's
/// family; of a stack, the parameter's name.
std::string tensor_name(const ModelConfig& config, const TensorId& id);

}  // namespace moe
