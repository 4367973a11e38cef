#include "data/tokenizer/utf8.h"

#include <cstring>

#include "common/error.h"

namespace moe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

/// Bytes at text[at] that a character may start with, at most its size - 1; `size` bytes are what it needs.
struct Start {
  size_t present = 0;
  size_t size = 0;
};

Start start_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> uint32_t { return static_cast<uint8_t>(text[at + i]); };
  const uint32_t first = byte(0);
  const size_t size = first >= 0xC2 && first <= 0xDF   ? 2
                      : first >= 0xE0 && first <= 0xEF ? 3
                      : first >= 0xF0 && first <= 0xF4 ? 4
                                                       : 1;
  if (size == 1) return {1, 1};
  const uint32_t lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint32_t highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  size_t present = 1;
  while (present < size - 1 && at + present < text.size()) {
    const uint32_t next = byte(present);
    if (next < (present == 1 ? lowest : 0x80) || next > (present == 1 ? highest : 0xBF)) break;
    ++present;
  }
  return {present, size};
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
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

void require_utf8(std::string_view text) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw InvalidArgument(concat("text is not UTF-8 at byte ", bad));
}

CodePoint code_point_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && is_utf8_tail(text[at])) --at;
  return code_point_at(text, at);
}

void append_utf8(char32_t code_point, std::string& text) {
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

void drain_utf8(std::string& bytes, BrokenUtf8 broken, bool is_end, std::string& text) {
  size_t at = 0;
  while (at < bytes.size()) {
    if (const size_t length = utf8_length(bytes, at); length > 0) {
      text.append(bytes, at, length);
      at += length;
      continue;
    }
    const Start start = start_at(bytes, at);
    const bool may_complete = start.size > start.present && at + start.present == bytes.size();
    if (may_complete && !is_end) break;
    text += kReplacement;
    at += broken == BrokenUtf8::kReplaceSequence ? start.present : 1;
  }
  bytes.erase(0, at);
}

}  // namespace moe
