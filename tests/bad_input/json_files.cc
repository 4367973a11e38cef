#include "bad_input/bad_files.h"

namespace moe::testing {

std::vector<BadFile> broken_json(const std::string& file, const std::string& good, Json kind) {
  const size_t key = good.find('"');
  const std::string first_key = good.substr(key, good.find('"', key + 1) + 1 - key);
  std::string twice = good;
  twice.insert(key, first_key + ":null,");
  std::vector<BadFile> files{
      {"empty", file, "", {"not valid JSON"}},
      {"only_spaces", file, " \n\t ", {"not valid JSON"}},
      {"cut_in_half", file, good.substr(0, good.size() / 2), {"not valid JSON", "parse error at line"}},
      {"without_last_brace", file, good.substr(0, good.rfind('}')), {"not valid JSON"}},
      {"text_behind", file, good + "x", {"not valid JSON"}},
      {"two_documents", file, good + good, {"not valid JSON"}},
      {"nul_behind", file, good + std::string("\0hidden", 7), {"a NUL at byte " + std::to_string(good.size())}},
      {"invalid_utf8", file, "{\"\xFF\": 1}", {"not valid JSON", "UTF-8"}},
      {"lone_surrogate", file, R"({"\udc00": 1})", {"not valid JSON", "surrogate"}},
      {"single_quotes", file, "{'a': 1}", {"not valid JSON"}},
      {"comment", file, "// a comment\n" + good, {"not valid JSON"}},
      {"number_out_of_range", file, R"({"a": 1e999})", {"not valid JSON", "number overflow", "1e999"}},
      {"nan_in_a_word", file, R"({"a": NaNs})", {"not valid JSON"}},
      {"infinity_as_a_key", file, R"({Infinity: 1})", {"not valid JSON"}},
      {"key_twice", file, twice, {first_key, "stands twice"}},
      {"very_deep", file, std::string(1'000'000, '['), {"nested deeper than 64 levels"}},
      {"deep_in_a_key",
       file,
       "{\"a\": " + std::string(200'000, '[') + std::string(200'000, ']') + "}",
       {"nested deeper than 64 levels"}},
      {"many_line_breaks", file, std::string(200'000, '\n') + "x", {"not valid JSON", "..."}},
      {"long_word", file, "{\"" + std::string(200'000, 'n'), {"not valid JSON", "..."}},
      {"a_list", file, "[]", {"object"}},
      {"a_number", file, "3", {"object"}},
      {"null", file, "null", {"object"}},
  };
  if (kind == Json::kStrict) files.push_back({"not_a_number", file, R"({"a": NaN})", {"not valid JSON"}});
  return files;
}

}  // namespace moe::testing
