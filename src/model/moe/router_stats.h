#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/layer_statistics.h"
#include "model/moe/router.h"

// T tokens, E experts.
namespace moe {

/// How one router of a layer routed this rank's tokens; what losses and biases of routers are made of.
struct RouterStats {
  at::Tensor tokens_per_expert_E;  ///< int64: (token, slot) pairs of this rank's tokens per global expert
  at::Tensor probability_sum_E;    ///< sum over tokens of probabilities over all experts; differentiable
  Routing routing{};               ///< of each of them; undefined unless asked for
};

/// `keeps_routing`: with RouterStats::routing.
RouterStats stats_of(const Routing& routing, bool keeps_routing);

/// What is measured of a router's decisions, by the names of common/measures.h.
struct RouterMeasures {
  const char* entropy;
  const char* top_probability;
};
inline constexpr RouterMeasures kFfnRouter{"router_entropy", "router_top_probability"};
inline constexpr RouterMeasures kAttentionRouter{"attention_router_entropy", "attention_router_top_probability"};

/// Adds the numbers to `statistics`, if there are any.
void measure(const Routing& routing, const RouterMeasures& names, LayerStatistics* statistics);

}  // namespace moe
