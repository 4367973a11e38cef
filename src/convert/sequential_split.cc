#include "convert/sequential_split.h"

#include <numeric>

namespace moe {

Split sequential_split(const SplitRequest& request) {
  const int64_t size = request.width / request.experts;
  Split split;
  for (int64_t expert = 0; expert < request.experts; ++expert) {
    std::vector<int32_t> neurons(size);
    std::iota(neurons.begin(), neurons.end(), static_cast<int32_t>(expert * size));
    split.experts.push_back(std::move(neurons));
  }
  return split;
}

}  // namespace moe
