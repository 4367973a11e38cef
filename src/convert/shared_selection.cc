#include "convert/shared_selection.h"

#include <algorithm>

#include "common/error.h"
#include "convert/neuron_scores.h"

namespace moe {

std::vector<int32_t> shared_selection(const at::Tensor& scores_GF, int64_t window, int64_t count) {
  const int64_t neurons = scores_GF.size(1);
  MOE_CHECK(window > 0 && count <= neurons, count, " shared neurons of ", neurons, ", by the best ", window);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t group = 0; group < scores_GF.size(0); ++group) orders.push_back(by_falling_score(scores_GF[group]));
  std::vector<bool> is_taken(neurons, false);
  std::vector<int32_t> shared;
  while (static_cast<int64_t>(shared.size()) < count) {
    std::vector<int64_t> windows(neurons, 0);
    for (const std::vector<int32_t>& order : orders) {
      int64_t room = window;
      for (auto neuron = order.begin(); room > 0 && neuron != order.end(); ++neuron) {
        if (is_taken[*neuron]) continue;
        ++windows[*neuron];
        --room;
      }
    }
    const int64_t most = *std::max_element(windows.begin(), windows.end());
    for (int32_t neuron = 0; neuron < neurons && static_cast<int64_t>(shared.size()) < count; ++neuron) {
      if (windows[neuron] != most) continue;
      is_taken[neuron] = true;
      shared.push_back(neuron);
    }
  }
  std::sort(shared.begin(), shared.end());
  return shared;
}

std::vector<int32_t> neurons_without(int64_t neurons, const std::vector<int32_t>& taken) {
  std::vector<bool> is_taken(neurons, false);
  for (const int32_t neuron : taken) is_taken[neuron] = true;
  std::vector<int32_t> left;
  for (int32_t neuron = 0; neuron < neurons; ++neuron) {
    if (!is_taken[neuron]) left.push_back(neuron);
  }
  return left;
}

}  // namespace moe
