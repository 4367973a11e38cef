#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/layer_context.h"
#include "model/moe/router.h"
#include "model/moe/router_stats.h"

// T tokens, D hidden, A experts, g query heads and n kv heads of one, d head_dim.
namespace moe {

struct AttentionExpertWeights {
  RouterWeights router;   ///< of the experts that a token may choose: [A - always_on, D]
  at::Tensor qkv;         ///< [owned experts, (g + 2n) d, D]: rows of q, then of k, then of v
  at::Tensor o;           ///< [owned experts, D, g d]
  at::Tensor qkv_bias{};  ///< of the rows of qkv; undefined where there is none
  at::Tensor o_bias{};    ///< [D]: added once per token, not scaled; undefined where there is none
};

struct AttentionExpertOptions {
  int64_t num_experts = 0;
  int64_t always_on = 0;  ///< the first ones: every token, weight 1, not scaled
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  RouterOptions router{};
  double output_scale = 1;
  bool sees_all_tokens = false;  ///< keys and values of every token of the sequence; false: of those routed there alone
};

/// Attention as a mixture of experts.
struct MoeAttention {
  AttentionExpertWeights weights;
  AttentionExpertOptions options;
};

struct AttentionExpertsOutput {
  at::Tensor y_TD;
  RouterStats stats;  ///< of the experts that a token may choose, numbered from 0
};

/// y = sum over experts that are always on of A_e(x) + output_scale * sum over the chosen of weight * A_e(x) + o_bias,
/// where A_e is causal attention of expert e over those tokens of the sequence that were routed to it, with RoPE at
/// their positions in the sequence: a token that was not is seen by no later one there. An owner of an expert gets all
/// rows of a sequence in it, in order, and attends to all such sequences in one call. `layer` names the collectives.
///
/// With the context's cache each rank keeps the keys and values of its own sequences in all experts (LayerKvCache), so
/// that a caller may move sequences about: owners give q, k and v back and get what was attended to. Computes no
/// gradient then.
///
/// Cost     products of the rows that were routed; with sees_all_tokens k and v of all, and attention as of all.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708), section 2.
AttentionExpertsOutput attention_experts(const MoeAttention& attention, int64_t layer, const at::Tensor& x_TD,
                                         const LayerContext& context);

}  // namespace moe
