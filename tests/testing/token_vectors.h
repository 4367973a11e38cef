#pragma once

#include <cstdint>
#include <filesystem>

#include "data/tokenizer.h"

namespace moe::testing {

struct VectorComparison {
  int64_t strings = 0;
  int64_t differences = 0;
};

/// Compares a tokenizer with vectors that PyPI sentencepiece wrote (tests/peer/sentencepiece_oracle.py): ids and byte
/// offsets of a text, the text decoded from them, and the text decoded from random ids. The first few differences fail
/// the test and are printed.
VectorComparison compare_with_vectors(const Tokenizer& tokenizer, const std::filesystem::path& vectors);

}  // namespace moe::testing
