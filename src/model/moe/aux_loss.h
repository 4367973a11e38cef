#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/moe/moe_layer.h"

namespace moe {

/// This rank's share of the balance loss, mean over layers of E * sum_e f_e P_e: the shares of all ranks sum to the
/// loss over all their tokens, and so do their gradients. f_e = tokens_per_expert / (K T) over all ranks, not
/// differentiated; P_e = mean probability. Uniform routing gives 1 (in total).
///
/// Shapes   tokens_per_expert_LE: counts summed over all ranks; global_tokens: T over all ranks.
/// Source   Fedus et al. 2021 (Switch), generalised to K; LLaMA-MoE v2 section 4.
at::Tensor balance_loss(const std::vector<RouterStats>& local, const at::Tensor& tokens_per_expert_LE,
                        int64_t global_tokens, int64_t top_k);

}  // namespace moe
