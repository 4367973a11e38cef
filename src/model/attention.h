#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/model_config.h"
#include "model/rope.h"

namespace moe {

/// Keys and values of one layer's tokens so far, the last of them where attention has a window. [tokens, kv heads,
/// head_dim]; undefined while empty.
struct LayerKvCache {
  at::Tensor keys;
  at::Tensor values;
};

struct AttentionWeights {
  at::Tensor q, k, v, o;  ///< [heads * head_dim, D], [kv heads * head_dim, D] twice, [D, heads * head_dim]
  at::Tensor q_bias{}, k_bias{}, v_bias{}, o_bias{};  ///< of their rows; undefined where there is none
};

/// Grouped-query attention, causal within each sequence and never across (ops::causal_attention), over the config's
/// window. With a cache, the batch is one sequence that continues it.
///
/// Shapes   x [T, D], cu_seqlens [sequences + 1] -> [T, D]
/// Source   Ainslie et al. 2023, arXiv:2305.13245.
at::Tensor attention(const ModelConfig& config, const AttentionWeights& weights, const RopeAngles& rope,
                     const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens, LayerKvCache* cache = nullptr);

}  // namespace moe
