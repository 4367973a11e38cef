#include "data/tokenizer/byte_level.h"

#include <array>

#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

constexpr char32_t kEnd = 0x144;

bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Maps {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kEnd> byte{};

  Maps() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned i = 0; i < 256; ++i) {
      character[i] = stands_for_itself(i) ? i : next++;
      byte[character[i]] = static_cast<int16_t>(i);
    }
  }
};

const Maps& maps() {
  static const Maps both;
  return both;
}

}  // namespace

char32_t byte_level_character(uint8_t byte) {
  return maps().character[byte];
}

std::optional<std::string> byte_level_bytes(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (c.value >= kEnd || maps().byte[c.value] < 0) return std::nullopt;
    bytes += static_cast<char>(maps().byte[c.value]);
    at += c.size;
  }
  return bytes;
}

}  // namespace moe
