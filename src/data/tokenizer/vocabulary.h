#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Token texts and their ids, both ways. Texts are any bytes; each id and each text stands once. An id that no text has
/// is a hole. Lookups cost one hash of the text; safe to share between threads once it is filled.
class Vocabulary {
 public:
  enum class Added { kYes, kTextIsThere, kIdIsThere };

  /// Needs id >= 0; memory grows with the largest id.
  Added insert(std::string_view text, int32_t id);

  /// -1 if there is none.
  int32_t find(std::string_view text) const;
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < is_there_.size() && is_there_[id]; }
  const std::string& text_of(int32_t id) const { return texts_[id]; }

  /// Texts, without holes.
  size_t size() const { return count_; }
  /// One more than the largest id.
  size_t id_end() const { return texts_.size(); }

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;  ///< -1: free
  };

  void grow();
  Slot& slot_of(std::string_view text, uint64_t hash);

  std::vector<std::string> texts_;  ///< by id
  std::vector<bool> is_there_;
  std::vector<Slot> slots_;  ///< open addressing; its size is a power of two, at most half of it used
  size_t count_ = 0;
};

}  // namespace moe
