#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/model_config.h"

namespace moe {

struct NormWeights {
  at::Tensor weight;
  at::Tensor bias{};  ///< of a LayerNorm
};

/// The norm that the config says, over the rows of x [T, D].
at::Tensor normalize(const ModelConfig& config, const NormWeights& weights, const at::Tensor& x_TD);

/// What stands before a layer's FFN.
struct BlockWeights {
  NormWeights input_norm;
  NormWeights post_norm;  ///< undefined in a parallel block
  AttentionWeights attention;
};

/// Gives a tensor by its name in a model directory; called only for tensors that the config has.
using TensorSource = std::function<at::Tensor(const std::string& name)>;

/// The weights of a layer and of a dense FFN, under the names of the config's family. Undefined where the config has
/// none.
BlockWeights block_weights(const ModelConfig& config, int64_t layer, const TensorSource& get);
FeedForwardWeights dense_ffn_weights(const ModelConfig& config, int64_t layer, const TensorSource& get);
/// Those of the shared expert of a mixture.
FeedForwardWeights shared_expert_weights(const ModelConfig& config, int64_t layer, const TensorSource& get);
/// The norm after the last layer.
NormWeights final_norm_weights(const ModelConfig& config, const TensorSource& get);

/// What a layer adds to the residual stream, in two steps around its FFN, which may be dense or a mixture:
/// x = x + attention(norm(x)); then x = x + ffn(ffn_input).
struct AttendedBlock {
  at::Tensor x_TD;          ///< the stream with the attention added
  at::Tensor ffn_input_TD;  ///< post_norm of it; in a parallel block the norm that the attention read
};
AttendedBlock attend_block(const ModelConfig& config, const BlockWeights& weights, const RopeAngles& rope,
                           const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens,
                           LayerKvCache* cache = nullptr);

}  // namespace moe
