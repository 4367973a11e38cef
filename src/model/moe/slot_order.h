#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/moe/token_dispatcher.h"

namespace moe {

/// The order of (token, slot) pairs by expert: first all of the first expert in the order of tokens, and so on. On the
/// device of the ids.
struct SlotOrder {
  at::Tensor row_tokens_R;     ///< int64: token of each row
  at::Tensor slot_rows_TK;     ///< int64: row of each (token, slot); -1 where its expert is not of `experts`
  at::Tensor rows_per_expert;  ///< int64 [experts.count]
};

/// A stable counting sort (kernels/routing.h) of ids [T, K] int64, some of which may be of other experts, or -1: how
/// many rows there are is read from the device.
SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts);

/// The same where every id is in [0, num_experts): there are T K rows, and nothing is read from the device.
SlotOrder sort_all_slots(const at::Tensor& ids_TK, int64_t num_experts);

}  // namespace moe
