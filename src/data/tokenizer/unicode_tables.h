#pragma once

#include <span>

/// Sorted, disjoint ranges of code points, as the HF `tokenizers` library has them (0.23: Oniguruma with Unicode 16 for
/// the patterns, Rust's own data for the digits and the words). Generated: see tools/make_unicode_tables.py. Use
/// unicode_classes.h to look a character up.
namespace moe {

struct CodePointRange {
  char32_t first = 0, last = 0;
};

std::span<const CodePointRange> unicode_letters();          ///< `\p{L}` of a pattern
std::span<const CodePointRange> unicode_numbers();          ///< `\p{N}` of a pattern
std::span<const CodePointRange> unicode_spaces();           ///< `\s` of a pattern, and what lstrip and rstrip swallow
std::span<const CodePointRange> unicode_digits();           ///< what the Digits pre-tokenizer cuts out
std::span<const CodePointRange> unicode_word_characters();  ///< what may not stand beside a single_word token

}  // namespace moe
