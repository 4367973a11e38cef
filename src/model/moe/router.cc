#include "model/moe/router.h"

#include "common/error.h"
#include "kernels/routing.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"

namespace moe {
namespace {

at::Tensor top_k_ids(const at::Tensor& values_TE, int64_t top_k) {
  const kernels::Queue queue = ops::queue_of("top_k", {{"logits", values_TE}});
  at::Tensor ids = at::empty({values_TE.size(0), top_k}, values_TE.options().dtype(at::kLong));
  kernels::top_k(const_view(row_major(values_TE.detach())), top_k, ids.mutable_data_ptr<int64_t>(), queue);
  return ids;
}

/// [.., 2]: a sigmoid is the softmax of its logit beside 0, in which a row's bits are its own (Torch's elementwise
/// sigmoid takes other instructions for the last elements of a tensor) and whose log is there where it underflows.
at::Tensor beside_zero(const at::Tensor& logits) {
  return at::stack({logits, at::zeros_like(logits)}, -1);
}

at::Tensor scores_of(const at::Tensor& logits_TE, RouterScore score) {
  if (score == RouterScore::kSoftmax) return at::softmax(logits_TE, -1);
  return at::softmax(beside_zero(logits_TE), -1).select(-1, 0).contiguous();
}

/// From two softmaxes, whose bits do not depend on a value's place; of a small x it is right to 1e-7, not to its last
/// digit.
at::Tensor tanh_of(const at::Tensor& x) {
  const at::Tensor both = at::softmax(at::stack({x, -x}, -1), -1);
  return both.select(-1, 0) - both.select(-1, 1);
}

/// log(1 + e^x).
at::Tensor softplus_of(const at::Tensor& x) {
  return -at::log_softmax(beside_zero(-x), -1).select(-1, 0);
}

/// The least standard deviation of learned noise.
constexpr double kLeastNoise = 0.01;

/// Of sigmoids from the chosen logits alone.
at::Tensor log_scores_of_chosen(const at::Tensor& logits_TE, const at::Tensor& ids_TK, RouterScore score) {
  if (score == RouterScore::kSoftmax) return at::log_softmax(logits_TE, -1).gather(1, ids_TK);
  return at::log_softmax(beside_zero(logits_TE.gather(1, ids_TK)), -1).select(-1, 0);
}

/// `scores_TE`: of all experts.
at::Tensor weights_of(const at::Tensor& logits_TE, const at::Tensor& scores_TE, const at::Tensor& ids_TK, TopkNorm norm,
                      RouterScore score, const at::Tensor& gain_E) {
  switch (norm) {
    case TopkNorm::kRenorm:
      // Not p over a sum of p, which may underflow: the softmax of log p, and of softmaxes that of the logits.
      return at::softmax(
          score == RouterScore::kSoftmax ? logits_TE.gather(1, ids_TK) : log_scores_of_chosen(logits_TE, ids_TK, score),
          -1);
    case TopkNorm::kRaw: return scores_TE.gather(1, ids_TK);
    case TopkNorm::kStraightThrough: {
      // Not p / stopgrad p: beside a logit 104 above its own the p of a chosen expert is 0 in float, and its log is
      // not.
      const at::Tensor log_p = log_scores_of_chosen(logits_TE, ids_TK, score);
      return log_p - log_p.detach() + 1;
    }
    case TopkNorm::kUnit: break;
    case TopkNorm::kOnePlus:
      if (gain_E.defined()) return (scores_TE * gain_E).gather(1, ids_TK) + 1;
  }
  return at::ones(ids_TK.sizes(), logits_TE.options());
}

}  // namespace

RouterScore parse_router_score(const std::string& name) {
  if (name == "softmax") return RouterScore::kSoftmax;
  if (name == "sigmoid") return RouterScore::kSigmoid;
  throw InvalidArgument(concat("score '", name, "'; expected softmax or sigmoid"));
}

TopkNorm parse_topk_norm(const std::string& name) {
  if (name == "renorm") return TopkNorm::kRenorm;
  if (name == "straight_through") return TopkNorm::kStraightThrough;
  if (name == "raw") return TopkNorm::kRaw;
  if (name == "unit") return TopkNorm::kUnit;
  if (name == "one_plus") return TopkNorm::kOnePlus;
  throw InvalidArgument(concat("topk_norm '", name, "'; expected renorm, straight_through, raw, unit or one_plus"));
}

RouterGate parse_router_gate(const std::string& name) {
  if (name == "linear") return RouterGate::kLinear;
  if (name == "mlp") return RouterGate::kMlp;
  if (name == "product") return RouterGate::kProduct;
  throw InvalidArgument(concat("router gate '", name, "'; expected linear, mlp or product"));
}

RouterNoise parse_router_noise(const std::string& name) {
  if (name == "none") return RouterNoise::kNone;
  if (name == "learned") return RouterNoise::kLearned;
  if (name == "gumbel") return RouterNoise::kGumbel;
  throw InvalidArgument(concat("router noise '", name, "'; expected none, learned or gumbel"));
}

at::Tensor router_logits(const at::Tensor& x_TD, const RouterWeights& weights, RouterGate gate) {
  // Of bf16 activations too in fp32: what decides between experts, and their weights, is not rounded to 8 bits.
  const at::ScalarType type = sum_type(x_TD.scalar_type());
  const at::Tensor x = x_TD.to(type), first_TE = ops::linear(x, weights.weight_ED.to(type));
  switch (gate) {
    case RouterGate::kLinear: break;
    case RouterGate::kMlp: return ops::linear(tanh_of(first_TE), weights.out_weight_EE.to(type));
    case RouterGate::kProduct: return ops::swiglu(ops::linear(x, weights.gate_weight_ED.to(type)), first_TE).abs();
  }
  return first_TE;
}

Routing route(const at::Tensor& x_TD, const RouterWeights& weights, const RouterOptions& options,
              const at::Tensor& draws_TE, const at::Tensor& ids_TK) {
  const at::ScalarType type = sum_type(x_TD.scalar_type());
  Routing routing;
  at::Tensor logits = router_logits(x_TD, weights, options.gate);
  if (draws_TE.defined() && options.noise == RouterNoise::kLearned) {
    routing.clean_logits_TE = logits;
    routing.noise_width_TE = softplus_of(ops::linear(x_TD.to(type), weights.noise_weight_ED.to(type))) + kLeastNoise;
    logits = logits + draws_TE.to(type) * routing.noise_width_TE;
  }
  routing.logits_TE = logits;
  const at::Tensor scores = scores_of(logits, options.score);
  const bool is_gumbel = draws_TE.defined() && options.noise == RouterNoise::kGumbel;
  const at::Tensor choice = is_gumbel ? logits.detach() + draws_TE.to(type) : logits;
  if (weights.selection_bias_E.defined()) {
    routing.scores_TE = is_gumbel ? scores_of(choice, options.score) : scores.detach();
    routing.expert_ids_TK = top_k_ids(routing.scores_TE + weights.selection_bias_E.detach().to(type), options.top_k);
  } else {
    routing.expert_ids_TK = top_k_ids(choice, options.top_k);
  }
  if (ids_TK.defined()) routing.expert_ids_TK = ids_TK;
  // Sigmoids over their sum, which may underflow: the softmax of their logs.
  routing.probabilities_TE = options.score == RouterScore::kSoftmax
                                 ? scores
                                 : at::softmax(at::log_softmax(beside_zero(logits), -1).select(-1, 0).contiguous(), -1);
  routing.weights_TK = weights_of(logits, scores, routing.expert_ids_TK, options.topk_norm, options.score,
                                  weights.gain_E.defined() ? weights.gain_E.to(type) : weights.gain_E);
  return routing;
}

}  // namespace moe
