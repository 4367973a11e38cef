#pragma once

#include <cstddef>
#include <string_view>

namespace moe {

/// Bytes of the well-formed UTF-8 character at text[at], or 0 if there is none (overlong, surrogate, cut off, beyond
/// U+10FFFF).
size_t utf8_length(std::string_view text, size_t at);

/// Offset of the first byte that is not part of a well-formed character, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace moe
