#pragma once

#include <cstdint>
#include <vector>

#include "data/tokenizer/bpe.h"

namespace moe {

/// The merge list of a BPE model: a pair of token ids -> rank and id of the merged token. Open addressing over one
/// array; safe to share between threads once it is filled.
class MergeTable {
 public:
  explicit MergeTable(size_t expected = 0) {
    size_t size = 16;
    while (size < expected * 2) size *= 2;
    slots_.resize(size);
  }

  /// The last one counts if a pair is given twice. At most as many pairs as the constructor was told.
  void insert(int32_t left, int32_t right, const BpeMerge& merge) {
    const uint64_t key = key_of(left, right);
    size_t at = home_of(key);
    while (slots_[at].key != kFree && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    if (slots_[at].key == kFree) ++size_;
    slots_[at] = {key, merge};
  }

  BpeMerge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    size_t at = home_of(key);
    while (slots_[at].key != kFree) {
      if (slots_[at].key == key) return slots_[at].merge;
      at = (at + 1) & (slots_.size() - 1);
    }
    return {};
  }

  size_t size() const { return size_; }

  /// Calls `visit(left, right)` for every pair.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.key != kFree) visit(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key));
    }
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};  // of no pair: ids are not negative
  struct Slot {
    uint64_t key = kFree;
    BpeMerge merge;
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  /// Fibonacci hashing of both halves.
  size_t home_of(uint64_t key) const {
    const uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15;
    return (mixed ^ mixed >> 32) & (slots_.size() - 1);
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace moe
