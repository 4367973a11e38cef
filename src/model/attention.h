#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace moe {

/// The angles of every position's RoPE pairs; computed in fp32, as the reference implementation does.
struct RopeTable {
  at::Tensor cos;   ///< [positions, head_dim / 2]
  at::Tensor sin;
};
RopeTable make_rope_table(const ModelConfig& config, int64_t positions, at::ScalarType dtype);

/// Keys and values of one layer's tokens so far. [tokens, kv heads, head_dim]; undefined while empty.
struct LayerKvCache {
  at::Tensor keys;
  at::Tensor values;
};

struct AttentionWeights {
  at::Tensor q, k, v, o;   ///< [heads * head_dim, D], [kv heads * head_dim, D] twice, [D, heads * head_dim]
};

/// Grouped-query attention, causal within each sequence and never across (ops::causal_attention). With a cache, the batch is one
/// sequence that continues it.
///
/// Shapes   x [T, D], positions [T] int64, cu_seqlens [sequences + 1] -> [T, D]
/// Source   Ainslie et al. 2023, arXiv:2305.13245.
at::Tensor attention(const ModelConfig& config, const AttentionWeights& weights, const RopeTable& rope, const at::Tensor& x_TD,
                     const at::Tensor& positions_T, const std::vector<int64_t>& cu_seqlens, LayerKvCache* cache = nullptr);

}  // namespace moe
