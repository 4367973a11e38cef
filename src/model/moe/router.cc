#include "model/moe/router.h"

#include "common/error.h"
#include "kernels/routing.h"
#include "model/kernel_views.h"
#include "model/op_queue.h"
#include "model/ops.h"

namespace moe {
namespace {

at::Tensor top_k_ids(const at::Tensor& logits_TE, int64_t top_k) {
  const kernels::Queue queue = ops::queue_of("top_k", {{"logits", logits_TE}});
  at::Tensor ids = at::empty({logits_TE.size(0), top_k}, logits_TE.options().dtype(at::kLong));
  kernels::top_k(const_view(row_major(logits_TE.detach())), top_k, ids.mutable_data_ptr<int64_t>(), queue);
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
