#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"
#include "model/parameters.h"

namespace moe {

/// Standard deviation of a fresh matrix: `initializer_range` of LLaMA's configurations.
inline constexpr double kFreshDeviation = 0.02;

/// Gives the parameters of a model the values with which a training from scratch begins: matrices, routers and
/// embeddings normal numbers of that deviation, norms 1, biases, gains and widths of noise 0. A number is named by
/// seed, tensor and place: ranks that hold the same tensor hold the same bits, whichever experts each of them owns.
void draw_fresh_weights(const std::vector<Parameter>& parameters, const ModelConfig& config, uint64_t seed);

}  // namespace moe
