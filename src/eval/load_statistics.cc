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

namespace {

/// An expert's load over the mean of its layer.
double over_mean(int64_t load, const std::vector<int64_t>& layer, int64_t sum) {
  return static_cast<double>(load) * static_cast<double>(layer.size()) / static_cast<double>(sum);
}

int64_t sum_of(const std::vector<int64_t>& layer) {
  return std::accumulate(layer.begin(), layer.end(), int64_t{0});
}

}  // namespace

double load_max_over_mean(const std::vector<std::vector<int64_t>>& load) {
  double worst = 0;
  for (const std::vector<int64_t>& layer : load) {
    if (const int64_t sum = sum_of(layer); sum > 0)
      worst = std::max(worst, over_mean(*std::max_element(layer.begin(), layer.end()), layer, sum));
  }
  return worst;
}

double load_min_over_mean(const std::vector<std::vector<int64_t>>& load) {
  double worst = 1;
  for (const std::vector<int64_t>& layer : load) {
    if (const int64_t sum = sum_of(layer); sum > 0)
      worst = std::min(worst, over_mean(*std::min_element(layer.begin(), layer.end()), layer, sum));
  }
  return worst;
}

}  // namespace moe
