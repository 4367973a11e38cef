#include "model/moe/slot_order.h"

#include "kernels/routing.h"
#include "model/op_queue.h"

namespace moe {
namespace {

/// row_tokens has room for as many rows as there are slots.
SlotOrder sort_with_room(const at::Tensor& ids_TK, ExpertRange experts) {
  const kernels::Queue queue = ops::queue_of("sort_slots", {{"ids", ids_TK}});
  const at::Tensor ids = ids_TK.contiguous();
  SlotOrder order{at::empty({ids.numel()}, ids.options()), at::empty(ids.sizes(), ids.options()),
                  at::empty({experts.count}, ids.options())};
  kernels::sort_slots({ids.const_data_ptr<int64_t>(), ids.size(0), ids.size(1), experts.first, experts.count,
                       order.row_tokens_R.mutable_data_ptr<int64_t>(), order.slot_rows_TK.mutable_data_ptr<int64_t>(),
                       order.rows_per_expert.mutable_data_ptr<int64_t>()},
                      queue);
  return order;
}

}  // namespace

SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts) {
  SlotOrder order = sort_with_room(ids_TK, experts);
  order.row_tokens_R = order.row_tokens_R.narrow(0, 0, order.rows_per_expert.sum().item<int64_t>());
  return order;
}

SlotOrder sort_all_slots(const at::Tensor& ids_TK, int64_t num_experts) {
  return sort_with_room(ids_TK, {0, num_experts});
}

}  // namespace moe
