#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moe {

/// A token of a word: bytes [begin, end) of it.
struct WordToken {
  int32_t id = -1;
  uint32_t begin = 0, end = 0;
};

/// Words that were encoded before, for words of at most kLongest bytes. Starts anew when it is full. One thread uses
/// it.
class WordCache {
 public:
  static constexpr size_t kLongest = 64;

  WordCache();

  /// Null data: not there. The span holds until the next insert.
  std::span<const WordToken> find(std::string_view word, uint64_t hash) const;
  /// Needs a word that is not there and has at least one token.
  void insert(std::string_view word, uint64_t hash, std::span<const WordToken> tokens);

  static uint64_t hash_of(std::string_view word);

 private:
  struct Slot {
    uint32_t hash = 0;
    uint32_t text = 0;             ///< in texts_
    uint32_t tokens = 0;           ///< in tokens_
    uint16_t size = 0, count = 0;  ///< count 0: free
  };

  std::vector<Slot> slots_;
  std::vector<char> texts_;
  std::vector<WordToken> tokens_;
  size_t used_ = 0;
};

}  // namespace moe
