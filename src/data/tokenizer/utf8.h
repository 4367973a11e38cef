#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/utf8.h"

/// UTF-8 as every tokenizer needs it beyond common/utf8.h, which says what is well-formed: text that must be, walks
/// from its end, and broken bytes made readable.
namespace moe {

/// Throws InvalidArgument with the offset of the first byte that is not UTF-8.
void require_utf8(std::string_view text);

/// The character that ends before text[end] (end > 0) of well-formed text.
CodePoint code_point_before(std::string_view text, size_t end);

/// Whether a byte of well-formed text is inside a character, not at its start.
inline bool is_utf8_tail(char byte) {
  return (static_cast<uint8_t>(byte) & 0xC0) == 0x80;
}

/// What a broken sequence of bytes becomes.
enum class BrokenUtf8 {
  kReplaceEachByte,  ///< one U+FFFD per byte: SentencePiece
  kReplaceSequence,  ///< one U+FFFD per longest start of a character: the Unicode standard's advice, Rust's
                     ///< from_utf8_lossy
};

/// Moves text out of `bytes` that come piece by piece. What may become a character with the next bytes stays, unless
/// `is_end`.
void drain_utf8(std::string& bytes, BrokenUtf8 broken, bool is_end, std::string& text);

}  // namespace moe
