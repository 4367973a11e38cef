#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// Share of all (layer, expert) pairs that got no token. load: [layers][experts], where a dense layer has no experts.
double dead_expert_fraction(const std::vector<std::vector<int64_t>>& load);

/// Largest load of a layer over its mean load, the worst of all layers; 1 is perfectly even, 0 without any token.
double load_max_over_mean(const std::vector<std::vector<int64_t>>& load);

/// Least load of an expert over the mean of its layer, the worst of all layers; 1 is perfectly even, and without any
/// token.
double load_min_over_mean(const std::vector<std::vector<int64_t>>& load);

}  // namespace moe
