// tokenizer.model: parsed, built into a tokenizer, and used once in each direction.

#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr moe::fuzz::MemoryBound kBound{400, size_t{4} << 20};
  moe::fuzz::check(data, size, kBound, kBound, [](std::string_view bytes) {
    const moe::SentencePieceTokenizer tokenizer(std::string(bytes), moe::fuzz::kWhere);
    const moe::Encoding encoding = tokenizer.encode("Once upon a  time\xF0\x9F\xA6\x99 <s>\n");
    tokenizer.decode(encoding.ids);
  });
  return 0;
}
