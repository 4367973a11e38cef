#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/utf8.h"

/// Foreign bytes made fit to be told: what a file, a flag, a folder's name, another program or a library says may be no UTF-8
/// and of any length, and a protobuf string, a JSON document, a log line and a page take neither. Error (common/error.h) and
/// log() (common/log.h) put everything through here, so that whoever makes a message may quote what it found; a long quotation
/// is cut with excerpt(), so that what stands behind it is still read. Standard library only, since error.h is.
namespace moe {

/// What a message quotes of a value at most, in bytes.
inline constexpr size_t kMaxQuoted = 200;
/// A message as a whole: far below what an RPC may carry, far above what a person reads.
inline constexpr size_t kMaxMessage = 16384;

/// The text as valid UTF-8: bytes that are none, and ASCII control characters but line breaks and tabs, become \xE9. Cut between
/// characters to at most `most` bytes and "..." behind them.
inline std::string printable(std::string_view text, size_t most = kMaxMessage) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string clean;
  clean.reserve(text.size() < most ? text.size() : most);
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<uint8_t>(text[at]);
    const bool is_control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
    const size_t length = is_control ? 0 : utf8_length(text, at);
    const char escaped[] = {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 0x0F]};
    const std::string_view piece = length == 0 ? std::string_view(escaped, sizeof escaped) : text.substr(at, length);
    if (clean.size() + piece.size() > most) return clean + "...";
    clean += piece;
    at += length == 0 ? 1 : length;
  }
  return clean;
}

/// A value as a message quotes it.
inline std::string excerpt(std::string_view text) { return printable(text, kMaxQuoted); }

}  // namespace moe
