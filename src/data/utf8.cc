#include "data/utf8.h"

#include <cstdint>

namespace moe {

size_t utf8_length(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  const auto byte = [&](size_t i) -> uint32_t { return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : 0; };
  const auto is_tail = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint32_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return is_tail(1) ? 2 : 0;
  if ((first & 0xF0) == 0xE0) {
    const uint32_t code = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6;
    return is_tail(1) && is_tail(2) && code >= 0x800 && (code & 0xF800) != 0xD800 ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const uint32_t code = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12;
    return is_tail(1) && is_tail(2) && is_tail(3) && code >= 0x10000 && code <= 0x10FFFF ? 4 : 0;
  }
  return 0;
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

}  // namespace moe
