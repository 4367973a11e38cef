#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/moe/token_dispatcher.h"

namespace moe {

/// The order of (token, slot) pairs by expert: first all of the first expert in the order of tokens, and so on.
struct SlotOrder {
  at::Tensor row_tokens_R;               ///< int64: token of each row
  at::Tensor slot_rows_TK;               ///< int64: row of each (token, slot); -1 where its expert is not of `experts`
  std::vector<int64_t> rows_per_expert;  ///< [experts.count]
};

/// A counting sort: O(T K + E). ids [T, K] int64.
SlotOrder sort_slots(const at::Tensor& ids_TK, ExpertRange experts);

}  // namespace moe
