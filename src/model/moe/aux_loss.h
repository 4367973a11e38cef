#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "model/moe/moe_layer.h"

namespace moe {

/// What a balance loss is formed of: each layer's experts, and the mean taken, or as if expert e of every layer were
/// one, whose tokens are those of all of them. One layer is the same in both.
enum class BalanceLayers { kPerLayer, kConcatenated };
BalanceLayers parse_balance_layers(const std::string& name);

/// This rank's share of the balance loss, mean over MoE layers of E * sum_e f_e P_e: the shares of all ranks sum to the
/// loss over all their tokens, and so do their gradients. f_e = tokens_per_expert / (K T) over all ranks, not
/// differentiated; P_e = mean probability. Uniform routing gives 1 (in total).
///
/// Shapes   tokens_per_expert_LE: counts summed over all ranks; global_tokens: T over all ranks; counted_tokens: those
///          that the counts are of, where they are more than these, 0 where they are not.
/// Units    concatenated layers: f and P are means over the layers, E * sum_e f_e P_e.
/// Source   Fedus et al. 2021 (Switch), generalised to K; LLaMA-MoE v2 section 4, whose code concatenates layers as
/// that of
///          transformers' Mixtral; counts of more than a micro-batch:
///          Qiu et al. 2025 (Demons in the Detail), arXiv:2501.11873.
at::Tensor balance_loss(const std::vector<RouterStats>& local, const at::Tensor& tokens_per_expert_LE,
                        int64_t global_tokens, int64_t top_k, int64_t counted_tokens = 0,
                        BalanceLayers layers = BalanceLayers::kPerLayer);

/// This rank's share of the same loss of each sequence by itself, mean over the tokens of all: f_e and P_e are those of
/// the sequence, which is weighted by its tokens (a short one is uneven whatever the router does). Nothing of other
/// ranks is needed, since no sequence lies on two.
///
/// `local` has RouterStats::routing.
///
/// Shapes   cu_seqlens [sequences + 1]: bounds of this rank's sequences; global_tokens: of all of which the mean is.
/// Source   DeepSeek-V3, arXiv:2412.19437, 2.1.2 (sequences of one length there).
at::Tensor sequence_balance_loss(const std::vector<RouterStats>& local, const std::vector<int64_t>& cu_seqlens,
                                 int64_t global_tokens, int64_t top_k, BalanceLayers layers = BalanceLayers::kPerLayer);

/// This rank's share of the mean over layers and tokens of logsumexp(logits)^2: it keeps logits small. `local` has
/// RouterStats::routing.
/// Source   Zoph et al. 2022 (ST-MoE), arXiv:2202.08906.
at::Tensor router_z_loss(const std::vector<RouterStats>& local, int64_t global_tokens);

}  // namespace moe
