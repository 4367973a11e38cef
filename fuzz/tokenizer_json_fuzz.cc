// tokenizer.json: parsed, built into a tokenizer, and used once in each direction.

#include <cstdlib>

#include "data/tokenizer/tokenizer_json.h"
#include "fuzz_target.h"

namespace moe {
namespace {

/// Ids of the vocabulary, bytes of the text.
void check_encoding(const Tokenizer& tokenizer, std::string_view text, SpecialTokens specials) {
  const Encoding encoding = tokenizer.encode(text, specials);
  if (encoding.ids.size() != encoding.offsets.size()) std::abort();
  for (const auto& [begin, end] : encoding.offsets) {
    if (begin < 0 || end < begin || end > static_cast<int64_t>(text.size())) std::abort();
  }
  tokenizer.decode(encoding.ids, specials == SpecialTokens::kParse);
}

}  // namespace
}  // namespace moe

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The tree of JSON; ids may leave holes: at most 2 N + 65536 of them, in two tables.
  constexpr moe::fuzz::MemoryBound kBound{1000, size_t{24} << 20};
  moe::fuzz::check(data, size, kBound, kBound, [](std::string_view bytes) {
    const moe::JsonTokenizer tokenizer(bytes, moe::fuzz::kWhere);
    constexpr std::string_view kText =
        "Once upon a  time, 12 abab\n\t\xC3\xA9"
        "e\xCC\x81 \xF0\x9F\xA6\x99<|end|> <s>a</s>";
    moe::check_encoding(tokenizer, kText, moe::SpecialTokens::kAsText);
    moe::check_encoding(tokenizer, kText, moe::SpecialTokens::kParse);
  });
  return 0;
}
