#include "report/table.h"

#include <gtest/gtest.h>

#include <sstream>

#include "common/error.h"
#include "report/text.h"

namespace moe {
namespace {

using Align = TextTable::Align;

TEST(TextTableTest, AlignsTextLeftAndNumbersRight) {
  TextTable table({{"model", Align::kText}, {"loss", Align::kNumber}});
  table.add_row({"dense", "2.31"});
  table.add_rule();
  table.add_row({"größer", "12.5"});
  table.add_row({"漢字"});
  EXPECT_EQ(table.render(80),
            "model   loss\n"
            "──────  ────\n"
            "dense   2.31\n"
            "──────  ────\n"
            "größer  12.5\n"
            "漢字\n");
}

TEST(TextTableTest, NarrowTerminalsShortenTextButNeverNumbers) {
  TextTable table({{"a long title of a column", Align::kText}, {"another", Align::kText}, {"number", Align::kNumber}});
  table.add_row({"a cell with many words", "short", "123456.789"});
  for (const int width : {80, 40, 30, 26}) {
    std::istringstream lines(table.render(width));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(display_width(line), width) << line;
    }
    EXPECT_NE(table.render(width).find("123456.789"), std::string::npos);
  }
  // Text columns keep 6 columns even where that is too wide.
  EXPECT_NE(table.render(10).find("a cel…  short   123456.789"), std::string::npos) << table.render(10);
}

TEST(TextTableTest, HostileCellsStayOnOneLine) {
  TextTable table({{"x\ny", Align::kText}});
  table.add_row({"a\nb\x1b[31m\xff"});
  EXPECT_EQ(table.render(80), "x y\n─────────\na b [31m\uFFFD\n");
}

TEST(TextTableTest, TooManyCellsAreAnError) {
  TextTable table({{"x", Align::kText}});
  EXPECT_THROW(table.add_row({"a", "b"}), Internal);
}

}  // namespace
}  // namespace moe
