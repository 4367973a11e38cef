#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// The classes of a code point, for pre-tokenizers and added tokens: one byte per code point (1.1 MB), made once.
/// Immutable; safe to share between threads.
class UnicodeClasses {
 public:
  static constexpr uint8_t kLetter = 1, kNumber = 2, kSpace = 4, kDigit = 8, kWord = 16;

  static const UnicodeClasses& get();

  /// Bits; 0 for what is no code point.
  uint8_t of(char32_t code_point) const { return code_point < bits_.size() ? bits_[code_point] : 0; }
  bool is_space(char32_t code_point) const { return (of(code_point) & kSpace) != 0; }

 private:
  UnicodeClasses();

  std::vector<uint8_t> bits_;
};

}  // namespace moe
