#include "report/text.h"

#include <gtest/gtest.h>

#include <cmath>

#include "report/sparkline.h"

namespace moe {
namespace {

TEST(TextTest, CleanUtf8KeepsTextAndReplacesTheRest) {
  EXPECT_EQ(clean_utf8("grün 漢字 😀"), "grün 漢字 😀");
  EXPECT_EQ(clean_utf8("a\nb\tc\x7f"), "a b c ");
  EXPECT_EQ(clean_utf8("\xff|\xc3|\xe6\xbc|\xc0\x80|\xed\xa0\x80|\xf5"),
            "\uFFFD|\uFFFD|\uFFFD\uFFFD|\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD|\uFFFD");
  EXPECT_EQ(clean_utf8("a\u009B2J\u2028b\u202Ec"), "a 2J b c");
}

TEST(TextTest, WidthsAreColumns) {
  EXPECT_EQ(display_width(""), 0);
  EXPECT_EQ(display_width("grün"), 4);
  EXPECT_EQ(display_width("漢字"), 4);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width("😀"), 2);
}

TEST(TextTest, ShortenNeverCutsACharacter) {
  EXPECT_EQ(shorten("convert", 7), "convert");
  EXPECT_EQ(shorten("converted", 7), "conver…");
  EXPECT_EQ(shorten("漢字漢字", 6), "漢字…");
  EXPECT_EQ(shorten("漢字漢字", 5), "漢字…");
  EXPECT_EQ(shorten("漢字漢字", 4), "漢…");
  EXPECT_EQ(shorten("abc", 0), "");
}

TEST(TextTest, EscapedTextIsSafeInTextAndAttributes) {
  EXPECT_EQ(escape_xml("<a href='x'>\"&\x01\n"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\n");
  EXPECT_EQ(escape_xml("safe\u202Egpj.exe\u0085"), "safegpj.exe");
}

TEST(TextTest, NumbersAsOneReadsThem) {
  EXPECT_EQ(short_number(2.34567), "2.346");
  EXPECT_EQ(short_number(0.0156251), "0.01563");
  EXPECT_EQ(short_number(12), "12");
  EXPECT_EQ(short_number(1234.56), "1235");
  EXPECT_EQ(short_number(120000), "120000");
  EXPECT_EQ(short_number(1e-9), "1e-09");
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(-0.5), "-0.5");
  EXPECT_EQ(short_number(std::nan("")), "-");
  EXPECT_EQ(fixed(1.005, 1), "1.0");
  EXPECT_EQ(fixed(INFINITY, 1), "-");
  EXPECT_EQ(perplexity_text(4.221), "4.22");
  EXPECT_EQ(perplexity_text(20.49), "20.5");
  EXPECT_EQ(perplexity_text(187.2), "187");
  EXPECT_EQ(perplexity_text(INFINITY), "-");
  EXPECT_EQ(count_text(6823424), "6.82 M");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(12345), "12.3 k");
  EXPECT_EQ(count_text(7'000'000'000), "7.00 G");
  EXPECT_EQ(count_text(134'515'008), "135 M");
  EXPECT_EQ(duration_text(3.21), "3.2 s");
  EXPECT_EQ(duration_text(93.4), "1 min 33 s");
  EXPECT_EQ(duration_text(7265), "2 h 1 min");
  EXPECT_EQ(duration_text(59.7), "60 s");
}

TEST(SparklineTest, ScalesAveragesAndLeavesGaps) {
  EXPECT_EQ(sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline({0, 0, 7, 7}, 2), "▁█");
  EXPECT_EQ(sparkline({3, 3, 3}, 10), "▁▁▁");
  EXPECT_EQ(sparkline({0, NAN, 7}, 10), "▁ █");
  EXPECT_EQ(sparkline({}, 10), "");
  EXPECT_EQ(sparkline({1, 2}, 0), "");
  EXPECT_EQ(display_width(sparkline(std::vector<double>(1000, 1.0), 40)), 40);
}

}  // namespace
}  // namespace moe
