#include "comm/row_counts.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/error.h"

namespace moe {

void require_counts(std::span<const int64_t> counts, int ranks, std::string_view op) {
  MOE_CHECK(static_cast<int>(counts.size()) == ranks, op, ": one count per rank expected");
  MOE_CHECK(std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count >= 0; }), op,
            ": a negative count");
}

void require_counts(std::span<const int64_t> counts, int ranks, int64_t all, std::string_view op) {
  require_counts(counts, ranks, op);
  MOE_CHECK(std::accumulate(counts.begin(), counts.end(), int64_t{0}) == all, op, ": counts do not sum to the rows");
}

at::Tensor empty_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, like.options().requires_grad(false));
}

}  // namespace moe
