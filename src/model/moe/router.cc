#include "model/moe/router.h"

#include "common/error.h"
#include "model/kernel_views.h"
#include "model/ops.h"
#include "model/ops_dtype.h"

namespace moe {
namespace {

/// Ids of the k largest of each row, largest first, lower id first among equals.
template <typename T>
void choose(const T* logits, int64_t tokens, int64_t experts, int64_t top_k, int64_t* ids) {
  for (int64_t t = 0; t < tokens; ++t, logits += experts, ids += top_k) {
    int64_t chosen = 0;
    for (int64_t e = 0; e < experts; ++e) {
      int64_t place = chosen;
      while (place > 0 && logits[e] > logits[ids[place - 1]]) --place;
      if (place == top_k) continue;
      chosen = std::min(chosen + 1, top_k);
      for (int64_t later = chosen - 1; later > place; --later) ids[later] = ids[later - 1];
      ids[place] = e;
    }
  }
}

at::Tensor top_k_ids(const at::Tensor& logits_TE, int64_t top_k) {
  const at::Tensor logits = logits_TE.detach().contiguous();
  at::Tensor ids = at::empty({logits.size(0), top_k}, at::kLong);
  ops::for_dtype(logits, [&]<typename T>(T) {
    choose(logits.const_data_ptr<T>(), logits.size(0), logits.size(1), top_k, ids.mutable_data_ptr<int64_t>());
  });
  return ids;
}

}  // namespace

TopkNorm parse_topk_norm(const std::string& name) {
  if (name == "renorm") return TopkNorm::kRenorm;
  if (name == "straight_through") return TopkNorm::kStraightThrough;
  if (name == "raw") return TopkNorm::kRaw;
  throw InvalidArgument(concat("topk_norm '", name, "'; expected renorm, straight_through or raw"));
}

Routing route(const at::Tensor& x_TD, const at::Tensor& weight_ED, int64_t top_k, TopkNorm norm) {
  // Of bf16 activations too in fp32: what decides between experts, and their weights, is not rounded to 8 bits.
  const at::ScalarType type = sum_type(x_TD.scalar_type());
  const at::Tensor logits = ops::linear(x_TD.to(type), weight_ED.to(type));
  Routing routing;
  routing.expert_ids_TK = top_k_ids(logits, top_k);
  routing.probabilities_TE = at::softmax(logits, -1);
  if (norm == TopkNorm::kRenorm) {
    routing.weights_TK = at::softmax(logits.gather(1, routing.expert_ids_TK), -1);
  } else if (norm == TopkNorm::kRaw) {
    routing.weights_TK = routing.probabilities_TE.gather(1, routing.expert_ids_TK);
  } else {
    // Not p / stopgrad p: beside a logit 104 above its own the p of a chosen expert is 0 in float, and its log is not.
    const at::Tensor log_p = at::log_softmax(logits, -1).gather(1, routing.expert_ids_TK);
    routing.weights_TK = log_p - log_p.detach() + 1;
  }
  return routing;
}

}  // namespace moe
