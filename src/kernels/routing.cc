#include "kernels/routing.h"

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/view_checks.h"

namespace moe::kernels {

void top_k(ConstMatrixView logits, int64_t k, int64_t* ids, Queue queue) {
  check_view("top_k", "logits", logits);
  if (k < 0 || k > logits.cols || (ids == nullptr && logits.rows * k > 0)) {
    throw InvalidArgument(concat("top_k: ", k, " of each row of ", describe("logits", logits),
                                 ids == nullptr ? ", without memory for ids" : ""));
  }
  run(&Backend::top_k, "top_k", {logits, k, ids}, queue);
}

void sort_slots(const SlotSort& sort, Queue queue) {
  if (sort.tokens < 0 || sort.slots < 0 || sort.experts < 0) {
    throw InvalidArgument(concat("sort_slots: ", sort.tokens, " tokens of ", sort.slots, " slots, ", sort.experts,
                                 " experts; expected 0 or more"));
  }
  run(&Backend::sort_slots, "sort_slots", sort, queue);
}

}  // namespace moe::kernels
