#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/rope.h"

namespace moe {

struct AttentionWeights {
  at::Tensor q, k, v, o;  ///< [heads * head_dim, D], [kv heads * head_dim, D] twice, [D, heads * head_dim]
  at::Tensor q_bias{}, k_bias{}, v_bias{}, o_bias{};  ///< of their rows; undefined where there is none
};

/// Grouped-query attention, causal within each sequence and never across (ops::causal_attention), over the config's
/// window. With `caches`, one a sequence, each sequence continues its own by any number of tokens: a prompt, a chunk of
/// one, a token, or none.
///
/// Shapes   x [T, D], cu_seqlens [sequences + 1] -> [T, D]
/// Source   Ainslie et al. 2023, arXiv:2305.13245.
at::Tensor attention(const ModelConfig& config, const AttentionWeights& weights, const RopeAngles& rope,
                     const at::Tensor& x_TD, const std::vector<int64_t>& cu_seqlens,
                     const std::vector<LayerKvCache*>& caches = {});

/// The attention itself: q [T, heads, d], k and v [T, kv heads, d], turned by their positions, over the sequences and
/// what their caches hold of them -> [T, heads, d].
at::Tensor attend_with_caches(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::vector<int64_t>& cu_seqlens, int64_t window,
                              const std::vector<LayerKvCache*>& caches);

}  // namespace moe
