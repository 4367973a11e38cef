#include "common/python_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "common/json_text.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::string& text) {
  try {
    parse_python_json(text, "config.json");
  } catch (const Corruption& error) {
    return error.what();
  }
  return "accepted";
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
