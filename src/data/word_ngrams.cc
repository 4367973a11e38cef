#include "data/word_ngrams.h"

#include <unicode/uchar.h>
#include <xxhash.h>

#include <array>

#include "common/utf8.h"
#include "data/tokenizer/unicode_classes.h"

namespace moe {

void for_each_ngram(std::string_view text, const std::function<void(uint64_t hash)>& visit) {
  const UnicodeClasses& classes = UnicodeClasses::get();
  std::array<uint64_t, kNgramWords> last{};  // hashes of words, the oldest first
  int words = 0;
  std::string word;
  const auto end_word = [&] {
    if (word.empty()) return;
    for (size_t i = 1; i < last.size(); ++i) last[i - 1] = last[i];
    last.back() = XXH3_64bits(word.data(), word.size());
    word.clear();
    if (++words >= kNgramWords) visit(XXH3_64bits(last.data(), sizeof last));
  };
  for (size_t at = 0; at < text.size();) {
    const size_t size = utf8_length(text, at);
    const char32_t character = size == 0 ? 0 : code_point_at(text, at).value;
    if ((classes.of(character) & UnicodeClasses::kWord) != 0) {
      append_utf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(character))), word);
    } else {
      end_word();
    }
    at += size == 0 ? 1 : size;
  }
  end_word();
}

}  // namespace moe
