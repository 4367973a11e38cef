#pragma once

#include <cstdint>

#include "model/model_config.h"

namespace moe {

/// Routed experts of a layer by their global ids: [first, first + count).
struct ExpertRange {
  int64_t first = 0;
  int64_t count = 0;
};

/// The routed experts that a rank owns of every layer, by kind of expert.
struct OwnedExperts {
  ExpertRange ffn;
};

/// Every expert of the model on one rank; none of a dense model.
inline OwnedExperts all_experts(const ModelConfig& config) {
  return {.ffn = {0, config.moe ? config.moe->num_experts : 0}};
}

}  // namespace moe
