#include "data/tokenizer/unicode_classes.h"

#include "data/tokenizer/unicode_tables.h"

namespace moe {

UnicodeClasses::UnicodeClasses() : bits_(0x110000, 0) {
  const auto mark = [this](std::span<const CodePointRange> ranges, uint8_t bit) {
    for (const CodePointRange& range : ranges) {
      for (char32_t c = range.first; c <= range.last; ++c) bits_[c] |= bit;
    }
  };
  mark(unicode_letters(), kLetter);
  mark(unicode_numbers(), kNumber);
  mark(unicode_spaces(), kSpace);
  mark(unicode_digits(), kDigit);
  mark(unicode_word_characters(), kWord);
}

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

}  // namespace moe
