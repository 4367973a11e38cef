#pragma once

#include <cstdint>

#include "model/model_config.h"

namespace moe {

/// Experts of a layer by their global ids: [first, first + count).
struct ExpertRange {
  int64_t first = 0;
  int64_t count = 0;
};

/// The experts that a rank owns of every layer, by kind of expert.
struct OwnedExperts {
  ExpertRange ffn;
  ExpertRange attention{};
};

/// Every expert of the model on one rank; none of a dense model.
inline OwnedExperts all_experts(const ModelConfig& config) {
  OwnedExperts all;
  if (!config.moe) return all;
  all.ffn.count = config.moe->num_experts;
  if (config.moe->attention) all.attention.count = config.moe->attention->num_experts;
  return all;
}

}  // namespace moe
