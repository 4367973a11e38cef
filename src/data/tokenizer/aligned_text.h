#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/utf8.h"

namespace moe {

/// Bytes [begin, end) of the original text, on character borders.
struct SourceSpan {
  uint32_t begin = 0, end = 0;
};

/// A stretch of (normalised) text that knows where its bytes came from. A view: `bytes` and `spans` belong to others.
struct AlignedText {
  std::string_view bytes;
  const SourceSpan* spans = nullptr;  ///< of each byte; null: the bytes are those of the original from `base` on
  uint32_t base = 0;

  AlignedText substr(size_t begin, size_t size) const {
    return {bytes.substr(begin, size), spans == nullptr ? nullptr : spans + begin, static_cast<uint32_t>(base + begin)};
  }

  /// What bytes [begin, end) came from (begin < end): whole characters of the original.
  SourceSpan source_of(size_t begin, size_t end) const {
    if (spans != nullptr) return {spans[begin].begin, spans[end - 1].end};
    while (is_utf8_tail(bytes[begin])) --begin;
    while (end < bytes.size() && is_utf8_tail(bytes[end])) ++end;
    return {static_cast<uint32_t>(base + begin), static_cast<uint32_t>(base + end)};
  }
};

/// The owner of such a text.
struct AlignedBuffer {
  std::string bytes;
  std::vector<SourceSpan> spans;

  AlignedText view() const { return {bytes, spans.data(), 0}; }

  void clear() {
    bytes.clear();
    spans.clear();
  }

  void append(std::string_view text, SourceSpan span) {
    bytes += text;
    spans.insert(spans.end(), text.size(), span);
  }

  void append(const AlignedText& text) {
    bytes += text.bytes;
    if (text.spans != nullptr) {
      spans.insert(spans.end(), text.spans, text.spans + text.bytes.size());
      return;
    }
    for (size_t at = 0; at < text.bytes.size();) {
      const size_t size = code_point_at(text.bytes, at).size;
      const auto begin = static_cast<uint32_t>(text.base + at);
      spans.insert(spans.end(), size, {begin, static_cast<uint32_t>(begin + size)});
      at += size;
    }
  }
};

/// `text` with `prefix` before it, which counts as part of the first character. Needs a text.
inline AlignedText with_prefix(const AlignedText& text, std::string_view prefix, AlignedBuffer& buffer) {
  buffer.clear();
  buffer.append(prefix, text.source_of(0, 1));
  buffer.append(text);
  return buffer.view();
}

/// `text` with each `pattern` replaced by `content`, which counts as the last character replaced; `text` itself if
/// there is none.
inline AlignedText with_replaced(const AlignedText& text, std::string_view pattern, std::string_view content,
                                 AlignedBuffer& buffer) {
  size_t found = text.bytes.find(pattern);
  if (found == std::string_view::npos) return text;
  buffer.clear();
  size_t begin = 0;
  for (; found != std::string_view::npos; found = text.bytes.find(pattern, begin)) {
    buffer.append(text.substr(begin, found - begin));
    begin = found + pattern.size();
    buffer.append(content, text.source_of(begin - 1, begin));
  }
  buffer.append(text.substr(begin, text.bytes.size() - begin));
  return buffer.view();
}

}  // namespace moe
