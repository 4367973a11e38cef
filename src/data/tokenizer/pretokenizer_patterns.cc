#include "data/tokenizer/pretokenizer_patterns.h"

#include "data/tokenizer/unicode_classes.h"
#include "data/tokenizer/utf8.h"

namespace moe {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr uint8_t kLetter = UnicodeClasses::kLetter, kNumber = UnicodeClasses::kNumber, kSpace = UnicodeClasses::kSpace;
constexpr uint8_t kKnown = kLetter | kNumber | kSpace;

/// A text with the classes of its characters; O is what is neither letter, number nor space.
class Scan {
 public:
  explicit Scan(std::string_view text) : text_(text), classes_(UnicodeClasses::get()) {}

  bool is_end(size_t at) const { return at >= text_.size(); }
  CodePoint at(size_t position) const {
    return is_end(position) ? CodePoint{0xFFFFFFFF, 0} : code_point_at(text_, position);
  }
  uint8_t class_of(char32_t c) const { return classes_.of(c) & kKnown; }
  bool is_letter(char32_t c) const { return class_of(c) == kLetter; }
  bool is_number(char32_t c) const { return class_of(c) == kNumber; }
  bool is_space(char32_t c) const { return class_of(c) == kSpace; }
  bool is_other(char32_t c) const { return c != 0xFFFFFFFF && class_of(c) == 0; }

  /// End of the run of one class (0: of O) from `position`, at most `most` characters of it.
  size_t run(size_t position, uint8_t wanted, size_t most = static_cast<size_t>(-1)) const {
    for (; most > 0 && !is_end(position); --most) {
      const CodePoint c = code_point_at(text_, position);
      if (class_of(c.value) != wanted) break;
      position += c.size;
    }
    return position;
  }

  /// End of the run of CR and LF.
  size_t run_of_newlines(size_t position) const {
    while (!is_end(position) && is_newline(text_[position])) ++position;
    return position;
  }

  static bool is_newline(char32_t c) { return c == '\r' || c == '\n'; }
  static bool is_newline(char c) { return c == '\r' || c == '\n'; }

  /// `\s+(?!\S)|\s+`: the white space from `position`, without its last character if text follows and it has others.
  size_t spaces(size_t position) const {
    const size_t end = run(position, kSpace);
    if (is_end(end)) return end;
    const size_t last = end - code_point_before(text_, end).size;
    return last > position ? last : end;
  }

  /// `'s|'t|'re|'ve|'m|'ll|'d` at the apostrophe text[position], or 0. Without case, the long s (U+017F) is an s.
  size_t contraction(size_t position, bool any_case) const {
    const auto letter = [&](const CodePoint& c) -> char32_t {
      if (!any_case) return c.value;
      if (c.value == 0x17F) return 's';
      return c.value >= 'A' && c.value <= 'Z' ? c.value + ('a' - 'A') : c.value;
    };
    const CodePoint first = at(position + 1);
    const char32_t a = letter(first);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return position + 1 + first.size;
    const CodePoint second = at(position + 1 + first.size);
    const char32_t b = letter(second);
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
      return position + 1 + first.size + second.size;
    return 0;
  }

 private:
  std::string_view text_;
  const UnicodeClasses& classes_;
};

size_t scan_gpt2(std::string_view text, size_t at) {
  const Scan scan(text);
  const CodePoint c = scan.at(at);
  if (c.value == '\'') {
    if (const size_t end = scan.contraction(at, /*any_case=*/false); end > 0) return end;
  }
  const size_t body = c.value == ' ' ? at + 1 : at;  // after the optional space
  const CodePoint next = body == at ? c : scan.at(body);
  if (scan.is_letter(next.value)) return scan.run(body, kLetter);
  if (scan.is_number(next.value)) return scan.run(body, kNumber);
  if (scan.is_other(next.value)) return scan.run(body, 0);
  return scan.spaces(at);
}

/// LLaMA-3 and Qwen, which differ in how many numbers make a piece.
template <size_t kNumbers>
size_t scan_llama3(std::string_view text, size_t at) {
  const Scan scan(text);
  const CodePoint c = scan.at(at);
  if (c.value == '\'') {
    if (const size_t end = scan.contraction(at, /*any_case=*/true); end > 0) return end;
  }
  if (scan.is_letter(c.value)) return scan.run(at, kLetter);
  if (scan.is_number(c.value)) return scan.run(at, kNumber, kNumbers);
  const CodePoint next = scan.at(at + c.size);
  if (!Scan::is_newline(c.value) && next.size > 0 && scan.is_letter(next.value)) return scan.run(at + c.size, kLetter);
  if (scan.is_other(c.value)) return scan.run_of_newlines(scan.run(at, 0));
  if (c.value == ' ' && scan.is_other(next.value)) return scan.run_of_newlines(scan.run(at + 1, 0));
  // `\s*[\r\n]+`: through the last newline of the white space.
  const size_t end = scan.run(at, kSpace);
  for (size_t i = end; i > at; --i) {
    if (Scan::is_newline(text[i - 1])) return i;
  }
  return scan.spaces(at);
}

}  // namespace

PatternScanner scanner_of(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return scan_gpt2;
  if (pattern == kLlama3Pattern) return scan_llama3<3>;
  if (pattern == kQwen2Pattern) return scan_llama3<1>;
  return nullptr;
}

}  // namespace moe
