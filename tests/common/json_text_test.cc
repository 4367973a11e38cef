#include "common/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string refusal(const std::string& text) {
  return testing::message_of<Corruption>([&] { parse_json(text, "dir/config.json"); });
}

std::string nested(int depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST(JsonTextTest, ReadsWhatIsThere) {
  const nlohmann::json json = parse_json(R"( {"a": {"x": 1}, "b": {"x": [1, 2.5, null, "\u00e9"]}} )", "here");
  EXPECT_EQ(json["b"]["x"][3], "\xC3\xA9");
  EXPECT_EQ(json["a"]["x"], 1);
}

TEST(JsonTextTest, RefusesWhatTheLibraryWouldHide) {
  EXPECT_THAT(refusal(R"({"a": {"b": 1, "c": 2, "b": 3}})"),
              AllOf(StartsWith("dir/config.json: "), HasSubstr("\"b\" stands twice")));
  EXPECT_EQ(refusal(R"([{"b": 1}, {"b": 2}])"), "nothing was thrown");
  EXPECT_THAT(refusal(std::string("{}\0hidden", 9)), HasSubstr("a NUL at byte 2"));
  EXPECT_EQ(refusal(nested(kMaxJsonDepth)), "nothing was thrown");
  EXPECT_THAT(refusal(nested(kMaxJsonDepth + 1)), HasSubstr("nested deeper than 64 levels"));
  EXPECT_THAT(refusal(std::string(2'000'000, '[')), HasSubstr("nested deeper than 64 levels"));
}

TEST(JsonTextTest, AMessageIsOneShortLine) {
  for (const std::string& text : {std::string("{"), "{\"a\":" + std::string(100'000, '\n') + "x",
                                  "{\"" + std::string(100'000, 'n'), std::string("\"\xFF\"")}) {
    const std::string message = refusal(text);
    EXPECT_THAT(message, StartsWith("dir/config.json: not valid JSON: parse error at line"));
    EXPECT_LT(message.size(), 500U);
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(JsonTextTest, AMessageIsUtf8) {
  EXPECT_THAT(refusal("{\"caf\xE9\": 1}"), HasSubstr("ill-formed UTF-8 byte; last read: '\"caf\\xE9"));
}

TEST(JsonTextTest, ALineOfDataIsReadAsOtherProgramsReadIt) {
  EXPECT_EQ(parse_json_line(R"({"a": 1, "a": 2})")["a"], 2) << "the last one counts, as in Python";
  const auto problem = [](const std::string& line) {
    return testing::message_of<Corruption>([&] { parse_json_line(line); });
  };
  EXPECT_THAT(problem(std::string("{}\0{}", 5)), StartsWith("not valid JSON: a NUL at byte 2"));
  EXPECT_THAT(problem("{\"a\": \"\xE9\"}"), AllOf(StartsWith("not valid JSON: "), HasSubstr("\\xE9")));
  EXPECT_EQ(problem(nested(kMaxJsonDepth)), "nothing was thrown");
  EXPECT_THAT(problem(nested(kMaxJsonDepth + 1)), StartsWith("nested deeper than 64 levels"));
  EXPECT_EQ(problem("\"" + std::string(100, '[') + "\\\"" + std::string(100, '[') + "\""), "nothing was thrown")
      << "brackets in a string";
}

TEST(JsonTextTest, QuotesAreCutBetweenCharacters) {
  EXPECT_EQ(quoted_json({{"a", 1}}), R"({"a":1})");
  EXPECT_EQ(quoted_json(std::string("\xFF")), "\"\xEF\xBF\xBD\"");
  std::string long_text;
  for (int i = 0; i < 500; ++i) long_text += "\xC3\xA9";
  const std::string quote = quoted_json(long_text);
  EXPECT_EQ(quote.size(), 1 + 2 * 99 + 3U);
  EXPECT_EQ(quote.substr(quote.size() - 5), "\xC3\xA9...");
}

}  // namespace
}  // namespace moe
