#include "common/error.h"
#include "model/moe/slot_order.h"
#include "model/moe/token_dispatcher.h"
#include "model/ops.h"

namespace moe {
namespace {

class LocalPlan final : public DispatchPlan {
 public:
  LocalPlan(at::Tensor slot_rows, at::Tensor weights)
      : slot_rows_TK(std::move(slot_rows)), weights_TK(std::move(weights)) {}

  at::Tensor slot_rows_TK;
  at::Tensor weights_TK;
};

}  // namespace

DispatchedTokens LocalDispatcher::dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK,
                                           const at::Tensor& weights_TK, int64_t num_experts, int64_t /*layer*/) {
  SlotOrder order = sort_slots(ids_TK, {0, num_experts}, ids_TK.numel());
  return {ops::permute(x_TD, order.row_tokens_R, order.slot_rows_TK), std::move(order.rows_per_expert),
          std::make_shared<LocalPlan>(order.slot_rows_TK, weights_TK)};
}

at::Tensor LocalDispatcher::combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched,
                                    int64_t /*layer*/) {
  const auto* plan = dynamic_cast<const LocalPlan*>(dispatched.plan.get());
  MOE_CHECK(plan != nullptr, "combine needs what this dispatcher's dispatch returned");
  return ops::unpermute(expert_out_RD, plan->slot_rows_TK, plan->weights_TK);
}

}  // namespace moe
