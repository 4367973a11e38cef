#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace moe {

/// A stretch of text that BPE left whole.
struct BpeSymbol {
  size_t begin = 0;
  size_t size = 0;
};

/// What merging two neighbours would give.
struct BpeMerge {
  bool exists = false;
  float score = 0;
};

/// Byte-pair encoding of `text`, which starts as one symbol per entry of `symbol_sizes` (they cover it): again and
/// again the neighbours with the highest score are merged, the leftmost first among equals, until no merge exists. A
/// heap over a doubly linked list: O(n log n). `merge` tells the score of a stretch of text as one symbol, whose first
/// `left_size` bytes are the left neighbour. A symbol marked in `is_frozen` (empty: none) is never merged. Source
/// Sennrich et al. 2016, arXiv:1508.07909; order of merges as in SentencePiece.
std::vector<BpeSymbol> bpe(std::string_view text, const std::vector<size_t>& symbol_sizes,
                           const std::vector<bool>& is_frozen,
                           const std::function<BpeMerge(std::string_view merged, size_t left_size)>& merge);

}  // namespace moe
