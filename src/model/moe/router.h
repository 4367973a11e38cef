#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

// T tokens, D hidden, E experts, K top-k.
namespace moe {

/// Which experts each token goes to, and with what weight.
struct Routing {
  /// int64, by falling logit, or by falling score + bias; the lowest id wins a tie. In any order where another chose.
  at::Tensor expert_ids_TK;
  at::Tensor weights_TK;        ///< in max(fp32, dtype of the activations); differentiable but for `unit`
  at::Tensor probabilities_TE;  ///< the scores over their sum, as the weights; differentiable
  at::Tensor logits_TE;         ///< as the weights, with learned noise in them; differentiable
  at::Tensor scores_TE{};       ///< without the bias, no gradient; undefined where there is no selection bias
  /// With learned noise in a training pass: the logits before it and its standard deviation. Differentiable.
  at::Tensor clean_logits_TE{};
  at::Tensor noise_width_TE{};
};

/// What makes logits of a token.
enum class RouterGate {
  kLinear,   ///< W x
  kMlp,      ///< B tanh(A x) (LLaMA-MoE v1)
  kProduct,  ///< |(u x) silu(g x)|, rows of length 1 after a conversion (CMoE)
};
RouterGate parse_router_gate(const std::string& name);

/// What is added to the logits of a training pass; nothing in any other.
enum class RouterNoise {
  kNone,
  kLearned,  ///< a normal number times softplus(W_noise x) + 0.01 (LLaMA-MoE v1)
  kGumbel,   ///< a Gumbel number, for the choice alone: weights and probabilities do not see it (Switch)
};
RouterNoise parse_router_noise(const std::string& name);

/// What a logit becomes before experts are chosen and weighed.
enum class RouterScore {
  kSoftmax,  ///< over the logits of all experts
  kSigmoid,  ///< of each by itself
};
RouterScore parse_router_score(const std::string& name);

/// How the scores p of the chosen become weights.
enum class TopkNorm {
  kRenorm,           ///< p over the sum of p of the chosen: they sum to 1
  kRaw,              ///< p
  kStraightThrough,  ///< 1 each, with the gradient of log p, also where p underflows: trains the router of top-1
  kUnit,             ///< 1 each, without a gradient: experts that are added up as they are
  kOnePlus,          ///< 1 + gain * p: 1 each where a layer's gains, one an expert, begin at 0
};
TopkNorm parse_topk_norm(const std::string& name);

/// A router's tensors; undefined where it has none.
struct RouterWeights {
  at::Tensor weight_ED{};         ///< W of kLinear, A of kMlp, u of kProduct
  at::Tensor out_weight_EE{};     ///< B of kMlp
  at::Tensor gate_weight_ED{};    ///< g of kProduct
  at::Tensor noise_weight_ED{};   ///< W_noise of kLearned
  at::Tensor selection_bias_E{};  ///< added to the scores for the choice alone: no weight sees it, and no gradient
  at::Tensor gain_E{};            ///< of kOnePlus; undefined: all 0. Differentiable
};

/// What a router does with them.
struct RouterOptions {
  int64_t top_k = 0;
  TopkNorm topk_norm = TopkNorm::kRenorm;
  RouterScore score = RouterScore::kSoftmax;
  RouterGate gate = RouterGate::kLinear;
  RouterNoise noise = RouterNoise::kNone;
};

/// Logits without noise, [T, E] in max(fp32, dtype). Differentiable; rows depend on their own token alone, bit for bit.
at::Tensor router_logits(const at::Tensor& x_TD, const RouterWeights& weights, RouterGate gate);

/// Logits in max(fp32, dtype), and what follows from them. Deterministic. `draws_TE`: the random numbers of the
/// options' noise (router_noise.h) in a training pass; undefined: there is no noise. `ids_TK`: the experts where
/// another than the router chose them (expert_choice.h), int64; undefined: it does. Shapes   x [T, D]; T may be 0.
/// Source   LLaMA-MoE v2 (arXiv:2411.15708) section 3; gate and learned noise of v1: arXiv:2406.16554, the noise of
///          Shazeer et al. 2017, arXiv:1701.06538; Gumbel noise: v1's Switch gate; straight-through: Bengio et al.
///          2013, arXiv:1308.3432; sigmoid scores and the selection bias: DeepSeek-V3, arXiv:2412.19437; the product
///          and 1 + gain * p: CMoE, arXiv:2502.04416.
Routing route(const at::Tensor& x_TD, const RouterWeights& weights, const RouterOptions& options,
              const at::Tensor& draws_TE = {}, const at::Tensor& ids_TK = {});

}  // namespace moe
