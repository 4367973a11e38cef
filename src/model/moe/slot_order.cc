#include "model/moe/slot_order.h"

#include <numeric>

namespace moe {

SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts) {
  const at::Tensor ids_tensor = ids_TK.contiguous();
  const int64_t* ids = ids_tensor.const_data_ptr<int64_t>();
  const int64_t slots = ids_tensor.numel(), top_k = ids_tensor.size(1);
  const auto local = [&](int64_t slot) { return ids[slot] - experts.first; };
  const auto is_here = [&](int64_t slot) { return local(slot) >= 0 && local(slot) < experts.count; };

  SlotOrder order;
  order.rows_per_expert.assign(experts.count, 0);
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (is_here(slot)) ++order.rows_per_expert[local(slot)];
  }
  std::vector<int64_t> next(experts.count, 0);
  std::exclusive_scan(order.rows_per_expert.begin(), order.rows_per_expert.end(), next.begin(), int64_t{0});
  const int64_t rows = std::accumulate(order.rows_per_expert.begin(), order.rows_per_expert.end(), int64_t{0});
  order.row_tokens_R = at::empty({rows}, at::kLong);
  order.slot_rows_TK = at::empty(ids_tensor.sizes(), at::kLong);
  int64_t* const row_tokens = order.row_tokens_R.mutable_data_ptr<int64_t>();
  int64_t* const slot_rows = order.slot_rows_TK.mutable_data_ptr<int64_t>();
  // Stable: an expert's rows keep the order of tokens, which its weight gradient is summed in.
  for (int64_t slot = 0; slot < slots; ++slot) {
    slot_rows[slot] = is_here(slot) ? next[local(slot)]++ : -1;
    if (slot_rows[slot] >= 0) row_tokens[slot_rows[slot]] = slot / top_k;
  }
  return order;
}

}  // namespace moe
