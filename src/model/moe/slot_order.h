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

/// A stable counting sort (kernels/routing.h) of ids [T, K] int64, `rows` of which are of `experts`; others may be of
/// other experts, or -1. How many there are is known to who asks: nothing is read from the device.
SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts, int64_t rows);

}  // namespace moe
