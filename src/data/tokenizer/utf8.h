#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/printable.h"

/// UTF-8 as every tokenizer needs it: well-formed characters (no overlong form, no surrogate, nothing beyond U+10FFFF),
/// the first byte that is none, and broken bytes made readable. utf8_length() is in common/printable.h.
namespace moe {

/// Offset of the first byte that is not part of a well-formed character, or npos.
size_t find_invalid_utf8(std::string_view text);

/// Throws InvalidArgument with the offset of the first byte that is not UTF-8.
void require_utf8(std::string_view text);

/// A character and how many bytes it takes.
struct CodePoint {
  char32_t value = 0;
  size_t size = 0;
};

/// The character at text[at] of well-formed text.
inline CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[at + i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

/// The character that ends before text[end] (end > 0) of well-formed text.
CodePoint code_point_before(std::string_view text, size_t end);

void append_utf8(char32_t code_point, std::string& text);

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
