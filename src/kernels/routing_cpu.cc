// The choice of experts and the order of rows by expert, and by rank, on the CPU.
#include <algorithm>
#include <numeric>
#include <vector>

#include "common/error.h"
#include "kernels/cpu_kernels.h"
#include "kernels/row_loops.h"

namespace moe::kernels {
namespace {

/// Ids of the k largest of a row, by insertion: k and the number of experts are small.
template <typename T>
void choose(const T* logits, int64_t experts, int64_t k, int64_t* ids) {
  int64_t chosen = 0;
  for (int64_t e = 0; e < experts; ++e) {
    int64_t place = chosen;
    while (place > 0 && widened(logits[e]) > widened(logits[ids[place - 1]])) --place;
    if (place == k) continue;
    chosen = std::min(chosen + 1, k);
    for (int64_t later = chosen - 1; later > place; --later) ids[later] = ids[later - 1];
    ids[place] = e;
  }
}

}  // namespace

void top_k_cpu(const TopKArgs& args) {
  with_type(args.logits.dtype, [&]<typename T>(T) {
    const auto logits = rows_of<T>(args.logits);
    for (int64_t t = 0; t < args.logits.rows; ++t) choose(logits[t], args.logits.cols, args.k, args.ids + t * args.k);
  });
}

void sort_slots_cpu(const SlotSort& sort) {
  const int64_t slots = sort.tokens * sort.slots;
  const auto local = [&](int64_t slot) { return sort.expert_ids[slot] - sort.first_expert; };
  const auto is_here = [&](int64_t slot) { return local(slot) >= 0 && local(slot) < sort.experts; };
  std::fill_n(sort.rows_per_expert, sort.experts, 0);
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (is_here(slot)) ++sort.rows_per_expert[local(slot)];
  }
  std::vector<int64_t> next(static_cast<size_t>(sort.experts), 0);
  const int64_t rows = std::accumulate(sort.rows_per_expert, sort.rows_per_expert + sort.experts, int64_t{0});
  if (rows != sort.rows) {
    throw InvalidArgument(concat("sort_slots: ", rows, " of ", slots, " slots are of the experts ", sort.first_expert,
                                 " to ", sort.first_expert + sort.experts - 1, ", where ", sort.rows,
                                 " were to be there"));
  }
  std::exclusive_scan(sort.rows_per_expert, sort.rows_per_expert + sort.experts, next.begin(), int64_t{0});
  // Stable: an expert's rows keep the order of tokens, which its weight gradient is summed in.
  for (int64_t slot = 0; slot < slots; ++slot) {
    sort.slot_rows[slot] = is_here(slot) ? next[static_cast<size_t>(local(slot))]++ : -1;
    if (sort.slot_rows[slot] >= 0) sort.row_tokens[sort.slot_rows[slot]] = slot / sort.slots;
  }
}

/// Two passes: how many rows each rank gets is known only when all tokens are counted, and an exchange wants the rows
/// of one destination side by side.
void sort_sends_cpu(const SendSort& sort) {
  const int64_t top_k = sort.slots, ranks = sort.ranks, slots = sort.tokens * top_k;
  const int64_t* const ids = sort.expert_ids;
  std::fill_n(sort.slot_rows, sort.tokens * ranks, -1);
  std::fill_n(sort.counts, 2 * ranks, 0);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t rank = ids[slot] / sort.experts_per_rank;
    if (ids[slot] < 0 || rank >= ranks) {
      throw InvalidArgument(concat("sort_sends: expert_ids[", slot, "] is ", ids[slot], "; expected 0 to ",
                                   ranks * sort.experts_per_rank - 1));
    }
    int64_t& row = sort.slot_rows[slot / top_k * ranks + rank];
    // The first slot that leads to this rank takes the row; the token's others there share it: rows are wide, ids not.
    if (row < 0) row = sort.counts[2 * rank]++;
    ++sort.counts[2 * rank + 1];
  }
  std::vector<int64_t> first(static_cast<size_t>(ranks), 0);
  for (int64_t rank = 1; rank < ranks; ++rank) {
    first[static_cast<size_t>(rank)] = first[static_cast<size_t>(rank - 1)] + sort.counts[2 * (rank - 1)];
  }
  for (int64_t token = 0; token < sort.tokens; ++token) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      int64_t& row = sort.slot_rows[token * ranks + rank];
      if (row < 0) continue;
      row += first[static_cast<size_t>(rank)];
      sort.row_tokens[row] = token;
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t id = ids[token * top_k + k];
        sort.local_ids[row * top_k + k] = id / sort.experts_per_rank == rank ? id % sort.experts_per_rank : -1;
      }
    }
  }
}

}  // namespace moe::kernels
