#include "eval/load_statistics.h"

#include <algorithm>
#include <numeric>

namespace moe {

double dead_expert_fraction(const std::vector<std::vector<int64_t>>& load) {
  int64_t dead = 0, all = 0;
  for (const std::vector<int64_t>& layer : load) {
    dead += std::count(layer.begin(), layer.end(), 0);
    all += static_cast<int64_t>(layer.size());
  }
  return all > 0 ? static_cast<double>(dead) / static_cast<double>(all) : 0;
}

double load_max_over_mean(const std::vector<std::vector<int64_t>>& load) {
  double worst = 0;
  for (const std::vector<int64_t>& layer : load) {
    const int64_t sum = std::accumulate(layer.begin(), layer.end(), int64_t{0});
    if (sum == 0) continue;
    const auto largest = static_cast<double>(*std::max_element(layer.begin(), layer.end()));
    worst = std::max(worst, largest * static_cast<double>(layer.size()) / static_cast<double>(sum));
  }
  return worst;
}

}  // namespace moe
