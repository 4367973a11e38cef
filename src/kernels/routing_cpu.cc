// The choice of experts and the order of rows by expert on the CPU.
#include <algorithm>
#include <numeric>
#include <vector>

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
  std::exclusive_scan(sort.rows_per_expert, sort.rows_per_expert + sort.experts, next.begin(), int64_t{0});
  // Stable: an expert's rows keep the order of tokens, which its weight gradient is summed in.
  for (int64_t slot = 0; slot < slots; ++slot) {
    sort.slot_rows[slot] = is_here(slot) ? next[static_cast<size_t>(local(slot))]++ : -1;
    if (sort.slot_rows[slot] >= 0) sort.row_tokens[sort.slot_rows[slot]] = slot / sort.slots;
  }
}

}  // namespace moe::kernels
