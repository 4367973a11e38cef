#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/communicator.h"
#include "eval/analyses.h"
#include "testing/tiny_model.h"

namespace moe::testing {

/// One mixture, layer 0 of two.
inline ModelConfig one_mixture(int64_t experts, int64_t top_k) {
  return with_dense_layer(tiny_moe_config(experts, top_k, 12), 1);
}

/// Of one rank.
inline nlohmann::json result_of(TextAnalysis& analysis) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  return analysis.result(*self);
}

}  // namespace moe::testing
