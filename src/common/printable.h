#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/utf8.h"

/// Foreign bytes made fit to be told: what a file, a flag, a folder's name, another program or a library says may be no
/// UTF-8 and of any length, and a protobuf string, a JSON document, a log line and a page take neither. Nor may it
/// command the terminal that shows it, or look like a line that somebody else wrote. Error (common/error.h) and log()
/// (common/log.h) put everything through here, so that whoever makes a message may quote what it found; a long
/// quotation is cut with excerpt(), so that what stands behind it is still read. Standard library only, since error.h
/// is.
///
/// What passes: every character of Unicode that is none of steers_a_reader(); tabs; and line breaks (U+000A) in a
/// message, which may have several lines, but not in a quotation and not in a line of the log. Everything else is
/// escaped byte by byte: \x1B, \xC2\x85, \xE9.
namespace moe {

/// What a message quotes of a value at most, in bytes.
inline constexpr size_t kMaxQuoted = 200;
/// A message as a whole: far below what an RPC may carry, far above what a person reads.
inline constexpr size_t kMaxMessage = 16384;

enum class LineBreaks { kKept, kEscaped };

/// Characters that do something to the screen or to the lines around them instead of standing there: the controls of
/// ASCII (C0 and DEL) and those above it (C1: U+009B starts a terminal's command as ESC [ does), the separators of
/// lines and paragraphs, and what overrides, embeds or isolates the direction of writing, so that a line reads
/// otherwise than it is.
constexpr bool steers_a_reader(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/// The text as valid UTF-8 that steers nothing, see above. Cut between characters to at most `most` bytes and "..."
/// behind them.
inline std::string printable(std::string_view text, size_t most = kMaxMessage, LineBreaks breaks = LineBreaks::kKept) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string clean;
  clean.reserve(text.size() < most ? text.size() : most);
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    const bool is_let_through = text[at] == '\t' || (text[at] == '\n' && breaks == LineBreaks::kKept);
    const bool is_plain = length > 0 && (is_let_through || !steers_a_reader(code_point_at(text, at).value));
    std::string_view piece = text.substr(at, length > 0 ? length : 1);
    at += piece.size();
    std::string escaped;
    if (!is_plain) {
      for (const char c : piece) {
        const auto byte = static_cast<uint8_t>(c);
        escaped += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 0x0F]};
      }
      piece = escaped;
    }
    if (clean.size() + piece.size() > most) return clean + "...";
    clean += piece;
  }
  return clean;
}

/// A value as a message quotes it, on one line.
inline std::string excerpt(std::string_view text) {
  return printable(text, kMaxQuoted, LineBreaks::kEscaped);
}

}  // namespace moe
