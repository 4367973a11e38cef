#include "testing/oracle_vectors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"

namespace moe::testing {
namespace {

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  char kind() { return take(1)[0]; }
  std::string_view text() { return take(numbers<uint32_t>(1)[0]); }
  template <typename T>
  std::vector<T> numbers(size_t count) {
    std::vector<T> values(count);
    const std::string_view bytes = take(count * sizeof(T));
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

 private:
  std::string_view take(size_t size) {
    if (size > rest_.size()) throw InvalidArgument("the oracle's file is cut off");
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
};

std::string described(const std::vector<int32_t>& ids, const std::vector<uint32_t>& offsets) {
  return nlohmann::json({{"ids", ids}, {"offsets", offsets}}).dump();
}

std::string quoted(std::string_view text) {
  return nlohmann::json(std::string(text.substr(0, 400)))
      .dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
}

bool has_same_encoding(const Tokenizer& tokenizer, char kind, std::string_view text, const std::vector<int32_t>& ids,
                       const std::vector<uint32_t>& offsets, bool prints) {
  const Encoding encoding = tokenizer.encode(text, kind == 'P' ? SpecialTokens::kParse : SpecialTokens::kAsText);
  std::vector<uint32_t> flat;
  for (const auto& [begin, end] : encoding.offsets) {
    flat.push_back(static_cast<uint32_t>(begin));
    flat.push_back(static_cast<uint32_t>(end));
  }
  if (encoding.ids == ids && flat == offsets) return true;
  if (prints) {
    ADD_FAILURE() << (kind == 'P' ? "parse " : "as text ") << quoted(text) << "\nexpected "
                  << described(ids, offsets).substr(0, 3000) << "\nactual   "
                  << described(encoding.ids, flat).substr(0, 3000);
  }
  return false;
}

bool has_same_decoding(const Tokenizer& tokenizer, char kind, const std::vector<int32_t>& ids,
                       std::string_view expected, bool prints) {
  const bool skips = kind == 'S';
  TextStream stream(tokenizer, skips);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  const std::string whole = tokenizer.decode(ids, skips);
  if (whole == expected && streamed == expected) return true;
  if (prints) {
    ADD_FAILURE() << "ids " << nlohmann::json(ids).dump() << (skips ? " without special tokens" : "") << "\nexpected "
                  << quoted(expected) << "\ndecoded  " << quoted(whole) << "\nstreamed " << quoted(streamed);
  }
  return false;
}

}  // namespace

OracleComparison compare_with_oracle_file(const Tokenizer& tokenizer, const std::filesystem::path& file) {
  constexpr int64_t kPrinted = 3;
  const std::string bytes = read_file(file);
  Reader reader(bytes);
  OracleComparison result;
  for (char kind = reader.kind(); kind != 'Z'; kind = reader.kind()) {
    const bool prints = result.differences < kPrinted;
    bool is_same = false;
    if (kind == 'P' || kind == 'T') {
      const std::string_view text = reader.text();
      const size_t count = reader.numbers<uint32_t>(1)[0];
      const auto ids = reader.numbers<int32_t>(count);
      const auto offsets = reader.numbers<uint32_t>(2 * count);
      is_same = has_same_encoding(tokenizer, kind, text, ids, offsets, prints);
      ++result.encodings;
      result.text_bytes += static_cast<int64_t>(text.size());
    } else {
      const auto ids = reader.numbers<int32_t>(reader.numbers<uint32_t>(1)[0]);
      is_same = has_same_decoding(tokenizer, kind, ids, reader.text(), prints);
      ++result.decodings;
    }
    if (!is_same) ++result.differences;
  }
  return result;
}

}  // namespace moe::testing
