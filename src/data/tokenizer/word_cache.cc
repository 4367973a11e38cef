#include "data/tokenizer/word_cache.h"

#include <xxhash.h>

#include <algorithm>

namespace moe {
namespace {

constexpr size_t kSlots = 65536;
constexpr size_t kMostUsed = kSlots / 2;

}  // namespace

WordCache::WordCache() : slots_(kSlots) {}

uint64_t WordCache::hash_of(std::string_view word) {
  return XXH3_64bits(word.data(), word.size());
}

std::span<const WordToken> WordCache::find(std::string_view word, uint64_t hash) const {
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash % kSlots; slots_[at].count > 0; at = (at + 1) % kSlots) {
    const Slot& slot = slots_[at];
    if (slot.hash == tag && std::string_view(texts_.data() + slot.text, slot.size) == word)
      return {tokens_.data() + slot.tokens, slot.count};
  }
  return {};
}

void WordCache::insert(std::string_view word, uint64_t hash, std::span<const WordToken> tokens) {
  if (used_ >= kMostUsed) {
    std::fill(slots_.begin(), slots_.end(), Slot{});
    texts_.clear();
    tokens_.clear();
    used_ = 0;
  }
  size_t at = hash % kSlots;
  while (slots_[at].count > 0) at = (at + 1) % kSlots;
  slots_[at] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(texts_.size()),
                static_cast<uint32_t>(tokens_.size()), static_cast<uint16_t>(word.size()),
                static_cast<uint16_t>(tokens.size())};
  texts_.insert(texts_.end(), word.begin(), word.end());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  ++used_;
}

}  // namespace moe
