#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/tokenizer/tokenizer.h"

namespace moe::testing {

struct OracleComparison {
  int64_t encodings = 0;
  int64_t text_bytes = 0;
  int64_t decodings = 0;
  int64_t differences = 0;
};

/// Compares a tokenizer with a file that an oracle wrote (tests/peer/oracle_file.py): ids and byte offsets of texts,
/// the text of ids (whole, and pushed one by one). The first few differences fail the test and are printed.
OracleComparison compare_with_oracle_file(const Tokenizer& tokenizer, const std::filesystem::path& file);

}  // namespace moe::testing
