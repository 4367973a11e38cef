#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace moe {

/// A token that is cut out of the text before the model sees it.
struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  ///< no word character may stand beside it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space behind it along
  bool normalized = false;   ///< is looked for in the normalised text, in its normalised form
  bool special = false;      ///< left out by decode(skip_special_tokens), text for SpecialTokens::kAsText
};

/// Cuts added tokens out of a text: the leftmost, and there the longest. A match that its token's rules drop is passed
/// over whole, as in the HF library. A trie with a table of first bytes. Immutable; safe to share between threads.
class AddedTokenMatcher {
 public:
  struct Piece {
    size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  ///< null: text between
  };

  /// `token` is matched as `pattern`, which is not empty; of equal patterns the first one counts. The token must
  /// outlive the matcher.
  void add(std::string_view pattern, const AddedToken& token);

  /// The pieces in order; they cover the text. A token with rstrip may overlap with the next one. Appends the ids of
  /// special tokens that stay text to `kept_as_text`, if given.
  void split(std::string_view text, SpecialTokens specials, std::vector<Piece>& pieces,
             std::vector<int32_t>* kept_as_text = nullptr) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;
    const AddedToken* token = nullptr;
  };

  int32_t child_of(int32_t node, uint8_t byte) const;
  /// The longest token at text[at], and its end.
  const AddedToken* match(std::string_view text, size_t at, size_t& end) const;

  std::vector<Node> nodes_{1};
  std::array<int32_t, 256> roots_ = [] {
    std::array<int32_t, 256> none{};
    none.fill(-1);
    return none;
  }();
};

}  // namespace moe
