#include "common/error.h"
#include "model/moe/sequence_segments.h"
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

DispatchedTokens LocalDispatcher::dispatch(const RoutedTokens& tokens) {
  const SlotOrder order = sort_slots(tokens.ids_TK, {0, tokens.num_experts}, tokens.ids_TK.numel());
  DispatchedTokens dispatched{ops::permute(tokens.x_TD, order.row_tokens_R, order.slot_rows_TK), order.rows_per_expert,
                              std::make_shared<LocalPlan>(order.slot_rows_TK, tokens.weights_TK)};
  if (tokens.tags.sequences_T.defined()) add_tags(tokens.tags, order, dispatched);
  return dispatched;
}

at::Tensor LocalDispatcher::combine(const at::Tensor& expert_out_RD, const DispatchedTokens& dispatched) {
  const auto* plan = dynamic_cast<const LocalPlan*>(dispatched.plan.get());
  MOE_CHECK(plan != nullptr, "combine needs what this dispatcher's dispatch returned");
  return ops::unpermute(expert_out_RD, plan->slot_rows_TK, plan->weights_TK);
}

}  // namespace moe
