#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moe {

/// Keys and values of one sequence's tokens in one layer so far, the last of them where attention has a window.
/// [tokens, kv heads, head_dim], in memory of their size; undefined while empty. Never written in place.
struct LayerKvCache {
  at::Tensor keys{};
  at::Tensor values{};
  /// Where attention is experts, those of each expert instead: of the tokens that were routed there, or of all where
  /// keys and values are not routed.
  std::vector<LayerKvCache> experts{};
};

/// One sequence so far. A copy is a second sequence that begins alike: it shares the memory of what both have.
struct SequenceKvCache {
  std::vector<LayerKvCache> layers;  ///< empty: nothing yet
  int64_t tokens = 0;                ///< so far, also those before a window: the position of the next
};

/// Keys and values of the tokens seen so far, for generation. Sequence s of every batch continues sequences[s]; between
/// batches the caller may take sequences out, add empty ones and copy or reorder them. An empty cache becomes that of
/// the first batch's sequences. A sequence that has no rows in a batch waits.
struct KvCache {
  std::vector<SequenceKvCache> sequences;
};

}  // namespace moe
