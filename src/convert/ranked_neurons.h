#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moe {

/// All neurons by falling score; of equal scores the lower neuron comes first.
template <typename Score>
std::vector<int32_t> ranked_neurons(const std::vector<Score>& scores) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  return order;
}

}  // namespace moe
