#pragma once

#include <memory>

#include "data/tokenizer/aligned_text.h"

namespace moe {

/// Unicode normalisation form C with the data of Unicode 9, which is what the HF library has: ICU's data restricted to
/// the characters of that age. Which original character a result counts as is the library's rule, too: a composed
/// character is its first part alone. Immutable; safe to share between threads.
class Nfc {
 public:
  /// Throws Internal if ICU's data cannot be loaded.
  Nfc();
  Nfc(const Nfc&) = delete;
  Nfc& operator=(const Nfc&) = delete;
  ~Nfc();

  /// `text` itself if it is normalised (seen quickly: no character that may change or combine), else the view of
  /// `buffer`.
  AlignedText apply(const AlignedText& text, AlignedBuffer& buffer) const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace moe
