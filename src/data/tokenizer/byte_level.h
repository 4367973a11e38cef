#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moe {

/// GPT-2's map between bytes and printable characters: 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves, the
/// other 68 bytes in increasing order for U+0100, U+0101 ... U+0143 (a space is U+0120). Token files of byte-level
/// models spell their tokens with it; the tokenizer itself works on bytes.
char32_t byte_level_character(uint8_t byte);

/// The bytes that a token's text stands for; none if it holds a character that stands for no byte.
std::optional<std::string> byte_level_bytes(std::string_view text);

}  // namespace moe
