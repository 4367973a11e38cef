#pragma once

#include <filesystem>
#include <string>

#include "data/tokenizer.h"

namespace moe::testing {

/// Compares a tokenizer with vectors that PyPI sentencepiece wrote (tests/peer/sentencepiece_oracle.py): ids, byte offsets, decoded
/// text. Every difference fails the test (the first few are printed). Returns the number of strings compared.
int64_t compare_with_vectors(const Tokenizer& tokenizer, const std::filesystem::path& vectors);

}  // namespace moe::testing
