#include "model/moe/slot_order.h"

#include "kernels/routing.h"
#include "model/op_queue.h"

namespace moe {

SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts, int64_t rows) {
  const kernels::Queue queue = ops::queue_of("sort_slots", {{"ids", ids_TK}});
  const at::Tensor ids = ids_TK.contiguous();
  SlotOrder order{at::empty({rows}, ids.options()), at::empty(ids.sizes(), ids.options()),
                  at::empty({experts.count}, ids.options())};
  kernels::sort_slots({ids.const_data_ptr<int64_t>(), ids.size(0), ids.size(1), experts.first, experts.count, rows,
                       order.row_tokens_R.mutable_data_ptr<int64_t>(), order.slot_rows_TK.mutable_data_ptr<int64_t>(),
                       order.rows_per_expert.mutable_data_ptr<int64_t>()},
                      queue);
  return order;
}

}  // namespace moe
