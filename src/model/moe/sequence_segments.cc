#include "model/moe/sequence_segments.h"

namespace moe {

void add_tags(const TokenTags& tags, const SlotOrder& order, DispatchedTokens& dispatched) {
  dispatched.tag_values_RA = tags.values_TA.index_select(0, order.row_tokens_R);
  const at::Tensor sequences_R = tags.sequences_T.index_select(0, order.row_tokens_R);
  const at::Tensor read = at::cat({order.rows_per_expert, sequences_R}).cpu();
  const int64_t experts = order.rows_per_expert.numel();
  const int64_t* const rows_of_expert = read.const_data_ptr<int64_t>();
  const int64_t* const sequence = rows_of_expert + experts;
  std::vector<int64_t>& bounds = dispatched.cu_seqlens = {0};
  int64_t row = 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int64_t end = row + rows_of_expert[expert];
    while (row < end) {
      const int64_t first = row;
      while (row < end && sequence[row] == sequence[first]) ++row;
      bounds.push_back(row);
    }
  }
}

}  // namespace moe
