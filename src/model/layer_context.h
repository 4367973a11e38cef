#pragma once

#include <cstdint>
#include <vector>

#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/moe/token_dispatcher.h"
#include "model/rope.h"

namespace moe {

/// What a caller of a forward pass may want of it beside the result.
struct ForwardOptions {
  KvCache* cache = nullptr;  ///< the batch's sequences continue those of the cache
};

/// What the layers of one forward pass share. Refers to what the caller owns; lives as long as the pass.
struct LayerContext {
  const ModelConfig& config;
  const RopeAngles& rope;                  ///< of the tokens' positions
  const std::vector<int64_t>& cu_seqlens;  ///< [sequences + 1]: the sequences of the batch
  TokenDispatcher& dispatcher;
  ForwardOptions options{};
};

}  // namespace moe
