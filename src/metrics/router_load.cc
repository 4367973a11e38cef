#include "metrics/router_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {

RouterLoad router_load(const std::vector<int64_t>& tokens_per_expert) {
  RouterLoad load;
  load.dead_experts = std::count(tokens_per_expert.begin(), tokens_per_expert.end(), 0);
  const auto total =
      static_cast<double>(std::accumulate(tokens_per_expert.begin(), tokens_per_expert.end(), int64_t{0}));
  if (total <= 0) return load;
  const auto experts = static_cast<double>(tokens_per_expert.size());
  const double mean = total / experts;
  const auto [least, most] = std::minmax_element(tokens_per_expert.begin(), tokens_per_expert.end());
  load.max_ratio = static_cast<double>(*most) / mean;
  load.min_ratio = static_cast<double>(*least) / mean;
  double squares = 0;
  double entropy = 0;
  for (const int64_t count : tokens_per_expert) {
    const auto tokens = static_cast<double>(count);
    squares += (tokens - mean) * (tokens - mean);
    if (count > 0) entropy -= tokens / total * std::log(tokens / total);
  }
  load.cv = std::sqrt(squares / experts) / mean;
  load.entropy_ratio = experts > 1 ? entropy / std::log(experts) : 1;
  return load;
}

}  // namespace moe
