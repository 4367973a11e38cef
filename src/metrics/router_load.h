#pragma once

#include <cstdint>
#include <vector>

/// How evenly one layer's router spreads its tokens, from routed counts. Used by WorkerMetrics; pure.
namespace moe {

/// All 0 (and every expert dead) if the layer got no token.
struct RouterLoad {
  double max_ratio = 0;      ///< of the busiest expert to the mean: 1 is even, E is collapsed
  double min_ratio = 0;      ///< of the idlest expert to the mean
  double cv = 0;             ///< standard deviation over mean
  double entropy_ratio = 0;  ///< H / ln E of the shares: 1 is even, 0 is one expert; 1 for a single expert
  int64_t dead_experts = 0;  ///< without any token
};

RouterLoad router_load(const std::vector<int64_t>& tokens_per_expert);

}  // namespace moe
