#pragma once

#include <cstdint>

#include "kernels/views.h"

/// Which experts tokens go to, and the order of their rows by expert, or by the rank that has it. T tokens, E experts,
/// K slots per token, P ranks. Indices and counts are int64 and lie on the device: nothing here is read back. Async as
/// in permute.h; deterministic.
///
/// Throws   InvalidArgument if sizes disagree, and on CPU if an id or a count is not what it must be (on CUDA that is
///          not checked); HardwareError if a launch fails.
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
  int64_t rows;              ///< slots that are here: the caller knows how many, and has room for as many
  int64_t* row_tokens;       ///< [rows]: token of each row
  int64_t* slot_rows;        ///< [T, K]: row of each slot, -1 for one that is not here
  int64_t* rows_per_expert;  ///< [experts]
};
void sort_slots(const SlotSort& sort, Queue queue = {});

/// The rows that tokens send to the ranks that have their experts: one for each (token, rank) with any of the token's
/// experts, sorted by rank, then by token. Rank r has the experts [r * experts_per_rank, (r + 1) * experts_per_rank).
struct SendSort {
  const int64_t* expert_ids;  ///< [T, K] in [0, P * experts_per_rank)
  int64_t tokens, slots;
  int64_t ranks, experts_per_rank;
  int64_t* row_tokens;  ///< [T * min(K, P)]: token of each row; written as far as there are rows
  int64_t* slot_rows;   ///< [T, P]: row of each (token, rank), -1 for none
  int64_t* local_ids;   ///< [T * min(K, P), K]: the rank's own number of the expert in slot k of a row's token, -1 if
                        ///< another has it; written as far as there are rows
  int64_t* counts;      ///< [P, 2]: rows for each rank, and how many of their slots are there
};
void sort_sends(const SendSort& sort, Queue queue = {});

}  // namespace moe::kernels
