#include "convert/random_split.h"

#include <algorithm>

#include "common/rng.h"

namespace moe {

Split random_split(const SplitRequest& request) {
  const std::vector<int64_t> order =
      random_permutation(request.width, CounterRng(request.seed, kStreamSplit, static_cast<uint32_t>(request.layer)));
  const int64_t size = request.width / request.experts;
  Split split;
  for (int64_t expert = 0; expert < request.experts; ++expert) {
    std::vector<int32_t> neurons(order.begin() + expert * size, order.begin() + (expert + 1) * size);
    std::sort(neurons.begin(), neurons.end());
    split.experts.push_back(std::move(neurons));
  }
  return split;
}

}  // namespace moe
