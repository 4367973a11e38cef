#include "testing/token_vectors.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace moe::testing {

int64_t compare_with_vectors(const Tokenizer& tokenizer, const std::filesystem::path& vectors) {
  std::ifstream in(vectors);
  EXPECT_TRUE(in) << vectors;
  int64_t compared = 0, differences = 0;
  for (std::string line; std::getline(in, line); ++compared) {
    const nlohmann::json expected = nlohmann::json::parse(line);
    const std::string text = expected["text"];
    const Encoding encoding = tokenizer.encode(text);
    std::vector<int64_t> begin, end;
    for (const auto& [first, last] : encoding.offsets) {
      begin.push_back(first);
      end.push_back(last);
    }
    const std::string decoded = tokenizer.decode(encoding.ids);
    const nlohmann::json actual = {{"text", text}, {"ids", encoding.ids}, {"begin", begin}, {"end", end}, {"decoded", decoded}};
    if (actual == expected) continue;
    if (++differences <= 3) ADD_FAILURE() << "expected " << expected.dump() << "\nactual   " << actual.dump();
  }
  EXPECT_EQ(differences, 0) << "of " << compared << " strings";
  return compared;
}

}  // namespace moe::testing
