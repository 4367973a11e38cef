#include "kernels/routing.h"

#include <algorithm>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

void check_memory(const char* op, const char* name, const int64_t* numbers, int64_t count) {
  if (numbers == nullptr && count > 0) {
    throw InvalidArgument(concat(op, ": ", name, " has no data for ", count, " numbers"));
  }
}

}  // namespace

void top_k(ConstMatrixView logits, int64_t k, int64_t* ids, Queue queue) {
  check_view("top_k", "logits", logits);
  if (k < 0 || k > logits.cols || (ids == nullptr && logits.rows * k > 0)) {
    throw InvalidArgument(concat("top_k: ", k, " of each row of ", describe("logits", logits),
                                 ids == nullptr ? ", without memory for ids" : ""));
  }
  run(&Backend::top_k, "top_k", {logits, k, ids}, queue);
}

void sort_slots(const SlotSort& sort, Queue queue) {
  if (sort.tokens < 0 || sort.slots < 0 || sort.experts < 0 || sort.rows < 0 || sort.rows > sort.tokens * sort.slots) {
    throw InvalidArgument(concat("sort_slots: ", sort.rows, " rows of ", sort.tokens, " tokens of ", sort.slots,
                                 " slots, ", sort.experts,
                                 " experts; expected 0 or more, and no more rows than slots"));
  }
  check_memory("sort_slots", "expert_ids", sort.expert_ids, sort.tokens * sort.slots);
  check_memory("sort_slots", "slot_rows", sort.slot_rows, sort.tokens * sort.slots);
  check_memory("sort_slots", "row_tokens", sort.row_tokens, sort.rows);
  check_memory("sort_slots", "rows_per_expert", sort.rows_per_expert, sort.experts);
  run(&Backend::sort_slots, "sort_slots", sort, queue);
}

void sort_sends(const SendSort& sort, Queue queue) {
  if (sort.tokens < 0 || sort.slots < 0 || sort.ranks <= 0 || sort.experts_per_rank <= 0) {
    throw InvalidArgument(concat("sort_sends: ", sort.tokens, " tokens of ", sort.slots, " slots to ", sort.ranks,
                                 " ranks of ", sort.experts_per_rank,
                                 " experts; expected 0 or more tokens and slots, 1 or more ranks and experts"));
  }
  const int64_t room = sort.tokens * std::min(sort.slots, sort.ranks);
  check_memory("sort_sends", "expert_ids", sort.expert_ids, sort.tokens * sort.slots);
  check_memory("sort_sends", "slot_rows", sort.slot_rows, sort.tokens * sort.ranks);
  check_memory("sort_sends", "row_tokens", sort.row_tokens, room);
  check_memory("sort_sends", "local_ids", sort.local_ids, room * sort.slots);
  check_memory("sort_sends", "counts", sort.counts, 2 * sort.ranks);
  run(&Backend::sort_sends, "sort_sends", sort, queue);
}

}  // namespace moe::kernels
