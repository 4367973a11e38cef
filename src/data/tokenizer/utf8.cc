#include "data/tokenizer/utf8.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

void require_utf8(std::string_view text) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw InvalidArgument(concat("text is not UTF-8 at byte ", bad));
}

CodePoint code_point_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && is_utf8_tail(text[at])) --at;
  return code_point_at(text, at);
}

void drain_utf8(std::string& bytes, BrokenUtf8 broken, bool is_end, std::string& text) {
  size_t at = 0;
  while (at < bytes.size()) {
    if (const size_t length = utf8_length(bytes, at); length > 0) {
      text.append(bytes, at, length);
      at += length;
      continue;
    }
    const Utf8Start start = utf8_start(bytes, at);
    const bool may_complete = start.present > 0 && at + start.present == bytes.size();
    if (may_complete && !is_end) break;
    text += kReplacement;
    at += broken == BrokenUtf8::kReplaceSequence ? std::max<size_t>(start.present, 1) : 1;
  }
  bytes.erase(0, at);
}

}  // namespace moe
