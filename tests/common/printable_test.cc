#include "common/printable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

/// Which bytes are UTF-8 is Python's bytes.decode("utf-8", "backslashreplace"), hexadecimal digits apart.
TEST(PrintableTest, BytesThatAreNoUtf8BecomeReadable) {
  EXPECT_EQ(printable("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"), "caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
  EXPECT_EQ(printable("caf\xE9 x"), "caf\\xE9 x");
  EXPECT_EQ(printable("\xC0\x80|\xE0\x80\x80|\xED\xA0\x80|\xF4\x90\x80\x80"),
            "\\xC0\\x80|\\xE0\\x80\\x80|\\xED\\xA0\\x80|\\xF4\\x90\\x80\\x80");
  EXPECT_EQ(printable("cut \xE2\x82"), "cut \\xE2\\x82");
}

TEST(PrintableTest, LinesStayAndATerminalIsNotCommanded) {
  EXPECT_EQ(printable("a\n\tb"), "a\n\tb");
  EXPECT_EQ(printable(std::string("\x1B[2J\r\0\x7F", 7)), "\\x1B[2J\\x0D\\x00\\x7F");
  // C1: U+009B is ESC [, U+0085 a line break.
  EXPECT_EQ(printable("\u009B2J\u0085\u0080\u009F|\u00A0"), "\\xC2\\x9B2J\\xC2\\x85\\xC2\\x80\\xC2\\x9F|\u00A0");
}

TEST(PrintableTest, ALineReadsAsItIs) {
  EXPECT_EQ(printable("a\u2028b\u2029c"), "a\\xE2\\x80\\xA8b\\xE2\\x80\\xA9c");
  for (const char* mark : {"\u202A", "\u202B", "\u202C", "\u202D", "\u202E", "\u2066", "\u2067", "\u2068", "\u2069"})
    EXPECT_THAT(printable(mark), ::testing::MatchesRegex(R"((\\x[0-9A-F][0-9A-F]){3})"));
  // Their neighbours, and text that is written from right to left, are text.
  EXPECT_EQ(printable("\u2027\u202F\u2065\u206A \u05E9\u05DC\u05D5\u05DD"),
            "\u2027\u202F\u2065\u206A \u05E9\u05DC\u05D5\u05DD");
}

TEST(PrintableTest, AQuotationAndALineOfTheLogAreOneLine) {
  EXPECT_EQ(excerpt("a\nevent=forged\tb"), "a\\x0Aevent=forged\tb");
  const testing::TempDir folder;
  {
    const LogFile file(folder / "log", LogLevel::kError);
    log_error("event=failed reason=\"a\nb\"");
  }
  EXPECT_THAT(read_file(folder / "log"), ::testing::MatchesRegex("[^\n]* event=failed reason=\"a\\\\x0Ab\"\n"));
}

TEST(PrintableTest, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(printable("abcd", 4), "abcd");
  EXPECT_EQ(printable("abcde", 4), "abcd...");
  EXPECT_EQ(printable("abc\xC3\xA9", 4), "abc...");
  EXPECT_EQ(printable("\xE9\xE9", 4), "\\xE9...");
  EXPECT_EQ(excerpt(std::string(3'000'000, 'x')), std::string(kMaxQuoted, 'x') + "...");
}

TEST(PrintableTest, EveryErrorCanBeTold) {
  EXPECT_STREQ(InvalidArgument("d.jsonl:2: caf\xE9").what(), "d.jsonl:2: caf\\xE9");
  EXPECT_LT(std::string_view(Corruption(std::string(6'000'000, 'x')).what()).size(), kMaxMessage + 4);
  EXPECT_EQ(message_of(std::runtime_error("caf\xE9\nException raised from here\n#1 there")), "caf\\xE9");
}

}  // namespace
}  // namespace moe
