#include "common/python_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "common/json_text.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::string& text) {
  return testing::message_of<Corruption>([&] { parse_python_json(text, "config.json"); });
}

TEST(PythonJsonTest, ReadsThreeLiteralsAsNumbersAndWritesThemBack) {
  const std::string text = R"({"a":Infinity,"b":[NaN,-Infinity,1.5],"c":"say \"NaN, Infinity\" [-Infinity]","d":null})";
  const nlohmann::json json = parse_python_json(text, "here");
  EXPECT_EQ(json["a"], std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(json["b"][0].get<double>()));
  EXPECT_EQ(json["b"][1], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(python_json_text(json, -1), text);
  EXPECT_EQ(quoted_json(json["a"]), "Infinity");
  EXPECT_EQ(parse_python_json(" NaN ", "here").type(), nlohmann::json::value_t::number_float);
}

/// As Python's json.loads and json.dumps(..., ensure_ascii=False), which leave DEL alone: no text stands for a literal.
TEST(PythonJsonTest, AnyTextMayStandBesideALiteral) {
  for (const char* text : {"[\"\x7F\",NaN]", "{\"a\":\"\x7F\x7F\x7F\x7F\x7F\x7F\",\"\x7F\":[-0.5,Infinity]}",
                           "[0.0,NaN,-0.0,\"-1\",-Infinity,1e3]", "[\"?NaN\",\"??\",\"NaN\",NaN]"}) {
    const nlohmann::json json = parse_python_json(text, "here");
    EXPECT_EQ(python_json_text(json, -1), std::string(text) == "[0.0,NaN,-0.0,\"-1\",-Infinity,1e3]"
                                              ? "[0.0,NaN,-0.0,\"-1\",-Infinity,1000.0]"
                                              : text);
  }
  // An escape is the same character.
  const nlohmann::json escaped = parse_python_json(R"(["\u007f", NaN])", "here");
  EXPECT_EQ(escaped[0], "\x7F");
  EXPECT_TRUE(std::isnan(escaped[1].get<double>()));
}

TEST(PythonJsonTest, ReadsNothingElseThatJsonHasNot) {
  for (const char* text : {"{NaN: 1}", "[nan]", "[NaNs]", "[1NaN]", "[+Infinity]", "[--Infinity]",
                           "[Infinity Infinity]", "{\"a\": Infinity", "[Inf]"}) {
    EXPECT_THAT(refusal(text), HasSubstr("config.json: not valid JSON")) << text;
  }
  // A literal is as long as what stands for it, so that the place is the right one.
  EXPECT_THAT(refusal("[-Infinity, ?]"), HasSubstr("column 13"));
}

}  // namespace
}  // namespace moe
