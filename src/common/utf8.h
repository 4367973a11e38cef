#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

/// Which bytes are UTF-8, once for messages, pages and tokenizers: well-formed characters as Unicode's table 3-7 has
/// them (no overlong form, no surrogate, nothing beyond U+10FFFF, nothing cut off), as Python's bytes.decode() takes
/// them. Standard library only, since error.h is.
namespace moe {

/// How far the bytes at a place go as the start of one character: `present` of the `size` that its first byte asks for;
/// both 0 where no character starts.
struct Utf8Start {
  size_t present = 0;
  size_t size = 0;
};

inline Utf8Start utf8_start(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {1, 1};
  if (first < 0xC2 || first > 0xF4) return {};
  const size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  // Of the second byte; the others may be any tail.
  const uint8_t lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  size_t present = 1;
  while (present < size && at + present < text.size()) {
    const uint8_t next = byte(present);
    if (next < (present == 1 ? lowest : 0x80) || next > (present == 1 ? highest : 0xBF)) break;
    ++present;
  }
  return {present, size};
}

/// Bytes of the well-formed character at text[at], or 0 if there is none.
inline size_t utf8_length(std::string_view text, size_t at) {
  const Utf8Start start = utf8_start(text, at);
  return start.present == start.size ? start.size : 0;
}

/// Offset of the first byte that is not part of a well-formed character, or npos.
inline size_t find_invalid_utf8(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080;
  for (size_t at = 0; at < text.size();) {
    uint64_t eight = kHighBits;
    if (at + sizeof eight <= text.size()) std::memcpy(&eight, text.data() + at, sizeof eight);
    if ((eight & kHighBits) == 0) {
      at += sizeof eight;
      continue;
    }
    const size_t length = utf8_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

inline bool is_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

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

inline void append_utf8(char32_t code_point, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xC0 | code_point >> 6);
    tail(0);
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xE0 | code_point >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | code_point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace moe
