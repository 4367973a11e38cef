#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

// T tokens, D hidden, E experts, K top-k.
namespace moe {

/// Which experts each token goes to, and with what weight.
struct Routing {
  at::Tensor expert_ids_TK;     ///< int64, by falling logit; the lowest id wins a tie
  at::Tensor weights_TK;        ///< in max(fp32, dtype of the activations); differentiable
  at::Tensor probabilities_TE;  ///< softmax over all experts, as the weights; differentiable
};

/// How the chosen logits become weights.
enum class TopkNorm {
  kRenorm,           ///< softmax over the chosen logits: they sum to 1
  kRaw,              ///< softmax over all experts, of those chosen: they sum to less than 1
  kStraightThrough,  ///< 1 each, with the gradient of log p (p over all experts), also where p underflows: trains the
                     ///< router of top-1
};
TopkNorm parse_topk_norm(const std::string& name);

/// Linear router: logits = x W^T in max(fp32, dtype). Deterministic.
/// Shapes   x [T, D], weight [E, D]; T may be 0.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708) section 3; straight-through: Bengio et al. 2013, arXiv:1308.3432.
Routing route(const at::Tensor& x_TD, const at::Tensor& weight_ED, int64_t top_k, TopkNorm norm);

}  // namespace moe
