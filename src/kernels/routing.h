#pragma once

#include <cstdint>

#include "kernels/views.h"

/// Which experts tokens go to, and the order of their rows by expert. T tokens, E experts, K slots per token. Indices
/// and counts are int64 and lie on the device: nothing here is read back. Async and errors as in permute.h;
/// deterministic.
namespace moe::kernels {

/// ids[t] = the k largest of logits [T, E] of each row, largest first, the lower id first among equals. ids [T, k];
/// k <= E.
void top_k(ConstMatrixView logits, int64_t k, int64_t* ids, Queue queue = {});

/// Where (token, slot) pairs stand when they are sorted by expert, first all of the first expert in the order of
/// tokens, and so on: a stable counting sort, O(T K + E).
struct SlotSort {
  const int64_t* expert_ids;  ///< [T, K]; an id outside [first_expert, first_expert + experts) is not here
  int64_t tokens, slots;
  int64_t first_expert, experts;
  int64_t* row_tokens;       ///< [T * K] at most: token of each row; written as far as there are rows
  int64_t* slot_rows;        ///< [T, K]: row of each slot, -1 for one that is not here
  int64_t* rows_per_expert;  ///< [experts]
};
void sort_slots(const SlotSort& sort, Queue queue = {});

}  // namespace moe::kernels
