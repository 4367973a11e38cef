#include "data/tokenizer/vocabulary.h"

#include <xxhash.h>

#include <algorithm>

namespace moe {
namespace {

constexpr size_t kFirstSlots = 64;

uint64_t hash_of(std::string_view text) {
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

Vocabulary::Slot& Vocabulary::slot_of(std::string_view text, uint64_t hash) {
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & mask;
  while (slots_[at].id >= 0 && (slots_[at].hash != tag || texts_[slots_[at].id] != text)) at = (at + 1) & mask;
  return slots_[at];
}

void Vocabulary::grow() {
  const size_t size = std::max(kFirstSlots, slots_.size() * 2);
  std::vector<Slot> old(size);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.id >= 0) slot_of(texts_[slot.id], hash_of(texts_[slot.id])) = slot;
  }
}

Vocabulary::Added Vocabulary::insert(std::string_view text, int32_t id) {
  if (has(id)) return Added::kIdIsThere;
  if ((count_ + 1) * 2 > slots_.size()) grow();
  const uint64_t hash = hash_of(text);
  Slot& slot = slot_of(text, hash);
  if (slot.id >= 0) return Added::kTextIsThere;
  if (static_cast<size_t>(id) >= texts_.size()) {
    texts_.resize(id + 1);
    is_there_.resize(id + 1);
  }
  texts_[id] = text;
  is_there_[id] = true;
  slot = {static_cast<uint32_t>(hash >> 32), id};
  ++count_;
  return Added::kYes;
}

int32_t Vocabulary::find(std::string_view text) const {
  if (slots_.empty()) return -1;
  const uint64_t hash = hash_of(text);
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & mask; slots_[at].id >= 0; at = (at + 1) & mask) {
    if (slots_[at].hash == tag && texts_[slots_[at].id] == text) return slots_[at].id;
  }
  return -1;
}

}  // namespace moe
