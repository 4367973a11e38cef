#include "data/tokenizer/nfc.h"

#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

constexpr char32_t kFirstThatMayChange = 0x300;

void check(UErrorCode status, const char* what) {
  if (U_FAILURE(status)) throw Internal(concat("ICU: ", what, ": ", u_errorName(status)));
}

icu::UnicodeSet set_of(const char* pattern) {
  UErrorCode status = U_ZERO_ERROR;
  icu::UnicodeSet set(icu::UnicodeString::fromUTF8(pattern), status);
  check(status, pattern);
  set.freeze();
  return set;
}

const icu::Normalizer2& icu_nfc() {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* const nfc = icu::Normalizer2::getNFCInstance(status);
  check(status, "NFC data");
  return *nfc;
}

/// A character and how it relates to the ones that it was made of: 0 replaces one, 1 is new, -n replaces one and
/// swallows the n behind it.
struct Change {
  char32_t value = 0;
  uint8_t combining_class = 0;
  int change = 0;
};

}  // namespace

struct Nfc::Data {
  icu::UnicodeSet old = set_of("[:age=9.0:]");
  icu::FilteredNormalizer2 nfc{icu_nfc(), old};
  std::vector<bool> may_change = std::vector<bool>(0x110000);

  Data() {
    const icu::UnicodeSet set = set_of("[[[:^NFC_QC=Yes:][:^ccc=0:]]&[:age=9.0:]]");
    for (int32_t i = 0; i < set.getRangeCount(); ++i) {
      for (UChar32 c = set.getRangeStart(i); c <= set.getRangeEnd(i); ++c) may_change[c] = true;
    }
  }

  bool is_normalized(std::string_view text) const {
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      if (c.value >= kFirstThatMayChange && may_change[c.value]) return false;
      at += c.size;
    }
    return true;
  }

  /// Canonical decomposition in canonical order.
  std::vector<Change> decompose(std::string_view text) const {
    std::vector<Change> all;
    const auto by_class = [](const Change& a, const Change& b) { return a.combining_class < b.combining_class; };
    size_t pending = 0;  // from here on the marks are not sorted yet
    icu::UnicodeString parts;
    const auto add = [&](UChar32 c, bool is_first) {
      const uint8_t combining_class = nfc.getCombiningClass(c);
      if (combining_class == 0) {
        std::stable_sort(all.begin() + static_cast<std::ptrdiff_t>(pending), all.end(), by_class);
        pending = all.size() + 1;
      }
      all.push_back({static_cast<char32_t>(c), combining_class, is_first ? 0 : 1});
      pending = std::min(pending, all.size());
    };
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      at += c.size;
      if (!nfc.getDecomposition(static_cast<UChar32>(c.value), parts)) {
        add(static_cast<UChar32>(c.value), true);
        continue;
      }
      for (int32_t i = 0; i < parts.length(); i = parts.moveIndex32(i, 1)) add(parts.char32At(i), i == 0);
    }
    std::stable_sort(all.begin() + static_cast<std::ptrdiff_t>(pending), all.end(), by_class);
    return all;
  }

  /// Canonical composition: each starter takes up the marks behind it that are not blocked.
  std::vector<Change> compose(const std::vector<Change>& parts) const {
    std::vector<Change> all;
    std::vector<Change> marks;  // behind the starter, not taken up
    bool has_starter = false;
    Change starter;
    const auto flush = [&] {
      if (has_starter) all.push_back(starter);
      all.insert(all.end(), marks.begin(), marks.end());
      marks.clear();
    };
    for (const Change& part : parts) {
      const bool is_blocked = !marks.empty() && marks.back().combining_class >= part.combining_class;
      const UChar32 composed = has_starter && !is_blocked ? nfc.composePair(static_cast<UChar32>(starter.value),
                                                                            static_cast<UChar32>(part.value))
                                                          : U_SENTINEL;
      if (composed >= 0) {
        starter.value = static_cast<char32_t>(composed);
        starter.change += part.change - 1;
      } else if (part.combining_class == 0) {
        flush();
        starter = part;
        has_starter = true;
      } else if (has_starter) {
        marks.push_back(part);
      } else {
        all.push_back(part);
      }
    }
    flush();
    return all;
  }
};

Nfc::Nfc() : data_(std::make_unique<Data>()) {}
Nfc::~Nfc() = default;

AlignedText Nfc::apply(const AlignedText& text, AlignedBuffer& buffer) const {
  if (data_->is_normalized(text.bytes)) return text;
  buffer.clear();
  const uint32_t start = text.source_of(0, 1).begin;
  size_t at = 0;  // in text.bytes: what has been used up
  const auto skip = [&] {
    if (at < text.bytes.size()) at += code_point_at(text.bytes, at).size;
  };
  std::string character;
  for (const Change& c : data_->compose(data_->decompose(text.bytes))) {
    character.clear();
    append_utf8(c.value, character);
    const bool is_new = c.change > 0 || at >= text.bytes.size();
    buffer.append(character, !is_new   ? text.source_of(at, at + 1)
                             : at == 0 ? SourceSpan{start, start}
                                       : text.source_of(at - 1, at));
    for (int i = c.change; i <= 0; ++i) skip();
  }
  return buffer.view();
}

}  // namespace moe
