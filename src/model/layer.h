#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <variant>

#include "model/attention.h"
#include "model/attention_experts.h"
#include "model/feed_forward.h"
#include "model/layer_context.h"
#include "model/moe/moe_layer.h"
#include "model/norm.h"

// T tokens, D hidden.
namespace moe {

/// The FFN of a mixture.
struct MoeFeedForward {
  MoeWeights weights;
  MoeOptions options;
};

/// One layer of a decoder: norms around an attention and an FFN, each of which is one of the forms that stand here. A
/// new form is a file with its weights and its function, an alternative, and an overload beside those of layer.cc.
struct Layer {
  int64_t index = 0;
  NormWeights input_norm;
  NormWeights post_norm;  ///< undefined in a parallel block
  std::variant<AttentionWeights, MoeAttention> attention;
  std::variant<FeedForwardWeights, MoeFeedForward> ffn;
};

/// A layer's first half: x + attention(norm(x)).
struct AttendedLayer {
  at::Tensor x_TD;                      ///< the stream with the attention added
  at::Tensor ffn_input_TD;              ///< post_norm of it; in a parallel block the norm that the attention read
  std::optional<RouterStats> router{};  ///< where the attention is experts
};
AttendedLayer attend_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context);

struct LayerOutput {
  at::Tensor x_TD;                                ///< the stream after the layer
  std::optional<RouterStats> router{};            ///< where the FFN is a mixture
  std::optional<RouterStats> attention_router{};  ///< where the attention is experts
};

/// The layer: x = x + attention(norm(x)); then x = x + ffn(norm(x)), where a parallel block's FFN reads the norm that
/// its attention read.
LayerOutput run_layer(const Layer& layer, const at::Tensor& x_TD, const LayerContext& context);

}  // namespace moe
