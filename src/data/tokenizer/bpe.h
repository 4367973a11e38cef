#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace moe {

/// A stretch of text that BPE has not split (yet): where it lies and its token. The caller gives the ids their meaning;
/// a symbol that no token spells may carry a negative one.
struct BpeSymbol {
  uint32_t begin = 0;
  uint32_t size = 0;
  int32_t id = -1;
};

/// What merging two neighbours would give; kNone: they do not merge.
struct BpeMerge {
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  uint32_t rank = kNone;
  int32_t id = -1;
};

/// Byte-pair encoding, for SentencePiece (the rank comes from the score of the merged text) and for merge lists (the
/// rank is the place of the pair of ids) alike. Again and again the neighbours with the lowest rank are merged, the
/// leftmost first among equals, until no merge exists. Few symbols are scanned at each step, many go through a heap
/// over a linked list: O(n log n); both give the same. The object holds memory between runs; one thread uses it. Source
/// Sennrich et al. 2016, arXiv:1508.07909.
class Bpe {
 public:
  /// Above this many symbols the heap is used.
  static constexpr size_t kFew = 24;

  /// Merges `symbols` in place. `merge_of(left, right)` gives the BpeMerge of two neighbours; it is asked once for each
  /// pair that comes to stand side by side, in the order in which they do.
  template <typename MergeOf>
  void run(std::vector<BpeSymbol>& symbols, const MergeOf& merge_of) {
    if (symbols.size() < 2) return;
    if (symbols.size() <= kFew) {
      run_few(symbols, merge_of);
    } else {
      run_many(symbols, merge_of);
    }
  }

 private:
  struct Links {
    int32_t previous = -1, next = -1;
  };
  struct Candidate {
    BpeMerge merge;
    int32_t left = 0, right = 0;
    uint32_t size = 0;  ///< of both when it was found: tells a stale candidate

    /// Order of a heap whose top is the best.
    bool operator<(const Candidate& other) const {
      return merge.rank != other.merge.rank ? merge.rank > other.merge.rank : left > other.left;
    }
  };

  template <typename MergeOf>
  void run_few(std::vector<BpeSymbol>& symbols, const MergeOf& merge_of) {
    pairs_.clear();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs_.push_back(merge_of(symbols[i], symbols[i + 1]));
    while (!pairs_.empty()) {
      const auto best = std::min_element(pairs_.begin(), pairs_.end(),
                                         [](const BpeMerge& a, const BpeMerge& b) { return a.rank < b.rank; });
      if (best->rank == BpeMerge::kNone) return;
      const auto i = best - pairs_.begin();
      symbols[i].size += symbols[i + 1].size;
      symbols[i].id = best->id;
      symbols.erase(symbols.begin() + i + 1);
      pairs_.erase(best);
      if (i > 0) pairs_[i - 1] = merge_of(symbols[i - 1], symbols[i]);
      if (static_cast<size_t>(i) < pairs_.size()) pairs_[i] = merge_of(symbols[i], symbols[i + 1]);
    }
  }

  template <typename MergeOf>
  void run_many(std::vector<BpeSymbol>& symbols, const MergeOf& merge_of) {
    const auto count = static_cast<int32_t>(symbols.size());
    links_.resize(symbols.size());
    heap_.clear();
    const auto candidate = [&](int32_t left, int32_t right) {
      const BpeMerge merge = merge_of(symbols[left], symbols[right]);
      if (merge.rank == BpeMerge::kNone) return false;
      heap_.push_back({merge, left, right, symbols[left].size + symbols[right].size});
      return true;
    };
    for (int32_t i = 0; i < count; ++i) {
      links_[i] = {i - 1, i + 1 < count ? i + 1 : -1};
      if (i > 0) candidate(i - 1, i);
    }
    std::make_heap(heap_.begin(), heap_.end());
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate best = heap_.back();
      heap_.pop_back();
      BpeSymbol &left = symbols[best.left], &right = symbols[best.right];
      if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
      left.size = best.size;
      left.id = best.merge.id;
      right.size = 0;  // merged into its left neighbour
      Links& links = links_[best.left];
      links.next = links_[best.right].next;
      if (links.next >= 0) links_[links.next].previous = best.left;
      if (links.previous >= 0 && candidate(links.previous, best.left)) std::push_heap(heap_.begin(), heap_.end());
      if (links.next >= 0 && candidate(best.left, links.next)) std::push_heap(heap_.begin(), heap_.end());
    }
    symbols.erase(
        std::remove_if(symbols.begin(), symbols.end(), [](const BpeSymbol& symbol) { return symbol.size == 0; }),
        symbols.end());
  }

  std::vector<BpeMerge> pairs_;  ///< of symbol i and i + 1
  std::vector<Links> links_;
  std::vector<Candidate> heap_;
};

}  // namespace moe
