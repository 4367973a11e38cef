#include "testing/token_vectors.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moe::testing {

VectorComparison compare_with_vectors(const Tokenizer& tokenizer, const std::filesystem::path& vectors) {
  std::ifstream in(vectors);
  EXPECT_TRUE(in) << vectors;
  VectorComparison result;
  for (std::string line; std::getline(in, line); ++result.strings) {
    const nlohmann::json expected = nlohmann::json::parse(line);
    const std::string text = expected["text"];
    const Encoding encoding = tokenizer.encode(text);
    std::vector<int64_t> begin, end;
    for (const auto& [first, last] : encoding.offsets) {
      begin.push_back(first);
      end.push_back(last);
    }
    const std::vector<int32_t> random_ids = expected["random_ids"];
    const nlohmann::json actual = {{"text", text},
                                   {"ids", encoding.ids},
                                   {"begin", begin},
                                   {"end", end},
                                   {"decoded", tokenizer.decode(encoding.ids)},
                                   {"random_ids", random_ids},
                                   {"random_decoded", tokenizer.decode(random_ids)}};
    if (actual == expected) continue;
    if (++result.differences <= 3) ADD_FAILURE() << "expected " << expected.dump() << "\nactual   " << actual.dump();
  }
  return result;
}

}  // namespace moe::testing
