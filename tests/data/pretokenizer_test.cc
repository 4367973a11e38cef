#include "data/tokenizer/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "common/file_io.h"
#include "data/tokenizer/unicode_classes.h"
#include "data/tokenizer/unicode_tables.h"
#include "testing/subprocess.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;
using Spans = std::vector<std::pair<uint32_t, uint32_t>>;

class Collector final : public WordSink {
 public:
  void take(const AlignedText& word) override {
    words.emplace_back(word.bytes);
    const SourceSpan span = word.source_of(0, word.bytes.size());
    spans.emplace_back(span.begin, span.end);
  }
  Words words;
  Spans spans;
};

Collector collected(std::vector<PreTokenizerNode> nodes, const std::string& text) {
  Collector collector;
  std::vector<PreTokenizer::Scratch> scratch;
  PreTokenizer(std::move(nodes)).split({text, nullptr, 0}, scratch, collector);
  return collector;
}

Words words(std::vector<PreTokenizerNode> nodes, const std::string& text) {
  return collected(std::move(nodes), text).words;
}

Words by_pattern(const char* pattern, const std::string& text) {
  SplitNode split;
  split.scanner = scanner_of(pattern);
  return words({split}, text);
}

/// SHA-256 of "lo-hi,lo-hi,..." in hexadecimal.
std::string sha256_of(std::span<const CodePointRange> ranges) {
  std::ostringstream out;
  out << std::hex;
  for (const CodePointRange& range : ranges) {
    out << (out.tellp() > 0 ? "," : "") << static_cast<uint32_t>(range.first) << "-"
        << static_cast<uint32_t>(range.last);
  }
  const testing::TempDir folder;
  write_file_atomically(folder / "ranges", out.str());
  return testing::run_process({"sha256sum", folder / "ranges"}).out.substr(0, 64);
}

// Digests of the tables of the HF library's engine (Oniguruma with the data of Unicode 16).
TEST(UnicodeTablesTest, AreThoseOfTheOracle) {
  EXPECT_EQ(sha256_of(unicode_letters()), "ffad0336ca31517a193c8df975556392fc5f34aff4bfb74c593ad45a498d3893");
  EXPECT_EQ(sha256_of(unicode_numbers()), "d8dc08e0112700c1028a5fb5df29b9fa116c10398224c40959320b0ecfe1a7c9");
  EXPECT_EQ(sha256_of(unicode_spaces()), "2193af60f82793765249fdc4ec51e848a5f014cfb416917e0b88ee0ca7f1d3d8");
}

TEST(UnicodeTablesTest, LookUpAgreesWithTheRanges) {
  const UnicodeClasses& classes = UnicodeClasses::get();
  int64_t letters = 0, numbers = 0, spaces = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    letters += (classes.of(c) & UnicodeClasses::kLetter) != 0;
    numbers += (classes.of(c) & UnicodeClasses::kNumber) != 0;
    spaces += classes.is_space(c);
  }
  EXPECT_EQ(letters, 141028);
  EXPECT_EQ(numbers, 1911);
  EXPECT_EQ(spaces, 25);
  EXPECT_EQ(classes.of('a'), UnicodeClasses::kLetter | UnicodeClasses::kWord);
  EXPECT_EQ(classes.of('7'), UnicodeClasses::kNumber | UnicodeClasses::kDigit | UnicodeClasses::kWord);
  EXPECT_EQ(classes.of('_'), UnicodeClasses::kWord);
  EXPECT_EQ(classes.of(0x180E), 0) << "not white space since Unicode 6.3";
  EXPECT_EQ(classes.of(0x110000), 0);
}

TEST(PatternTest, SplitsAsThePatternSays) {
  const std::string text = "I'Ll  go'S 12345 \n\n x";
  EXPECT_THAT(by_pattern(kLlama3Pattern, text),
              ElementsAre("I", "'Ll", " ", " go", "'S", " ", "123", "45", " \n\n", " x"));
  EXPECT_THAT(by_pattern(kQwen2Pattern, text),
              ElementsAre("I", "'Ll", " ", " go", "'S", " ", "1", "2", "3", "4", "5", " \n\n", " x"));
  EXPECT_THAT(by_pattern(kGpt2Pattern, text),
              ElementsAre("I", "'", "Ll", " ", " go", "'", "S", " 12345", " \n\n", " x"));
  EXPECT_THAT(by_pattern(kLlama3Pattern, "a\r\n\r\n  b !?\n\nc"),
              ElementsAre("a", "\r\n\r\n", " ", " b", " !?\n\n", "c"));
  EXPECT_THAT(by_pattern(kLlama3Pattern, "x'\xC5\xBF y"), ElementsAre("x", "'\xC5\xBF", " y"))
      << "the long s is an s without case";
  EXPECT_THAT(by_pattern(kGpt2Pattern, "don't \t"), ElementsAre("don", "'t", " \t"));
  EXPECT_THAT(by_pattern(kGpt2Pattern, "  \xE4\xBD\xA0\xE5\xA5\xBD!"),
              ElementsAre(" ", " \xE4\xBD\xA0\xE5\xA5\xBD", "!"));
  EXPECT_EQ(scanner_of("\\p{L}+"), nullptr);
}

SplitNode split_at(const std::string& text, SplitBehavior behavior, bool invert = false) {
  return {.scanner = nullptr, .text = text, .behavior = behavior, .invert = invert};
}

TEST(PreTokenizerTest, KnowsEveryBehaviourOfASplit) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(words({split_at("-", SplitBehavior::kRemoved)}, text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(words({split_at("-", SplitBehavior::kRemoved, true)}, text), ElementsAre("-", "-", "-"));
  EXPECT_THAT(words({split_at("-", SplitBehavior::kIsolated)}, text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(words({split_at("-", SplitBehavior::kMergedWithPrevious)}, text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(words({split_at("-", SplitBehavior::kMergedWithNext)}, text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(words({split_at("-", SplitBehavior::kContiguous)}, text),
              ElementsAre("the", "-", "final", "--", "countdown"));
}

TEST(PreTokenizerTest, NodesFollowEachOther) {
  EXPECT_THAT(words({DigitsNode{true}, ByteLevelNode{false, true}}, "ab 12 c"), ElementsAre("ab", " ", "1", "2", " c"));
  EXPECT_THAT(words({DigitsNode{false}}, "ab12\xE2\x85\xA7"), ElementsAre("ab", "12\xE2\x85\xA7"));
  EXPECT_THAT(words({ByteLevelNode{true, false}}, "ab"), ElementsAre(" ab"));
  EXPECT_THAT(words({}, "ab c"), ElementsAre("ab c"));
  EXPECT_TRUE(words({ByteLevelNode{}}, "").empty());
}

TEST(PreTokenizerTest, MetaspaceKeepsWhereItsWordsCameFrom) {
  using Prepend = MetaspaceNode::Prepend;
  const Collector always = collected({MetaspaceNode{"_", Prepend::kAlways, true}}, "Hey   you");
  EXPECT_THAT(always.words, ElementsAre("_Hey", "_", "_", "_you"));
  EXPECT_EQ(always.spans, (Spans{{0, 3}, {3, 4}, {4, 5}, {5, 9}}));
  EXPECT_THAT(words({MetaspaceNode{"_", Prepend::kAlways, false}}, " a b"), ElementsAre("_a_b"));
  EXPECT_THAT(words({MetaspaceNode{"_", Prepend::kNever, true}}, "a b"), ElementsAre("a", "_b"));
  // Only the piece at the text's very beginning.
  EXPECT_THAT(words({split_at("-", SplitBehavior::kRemoved), MetaspaceNode{"_", Prepend::kFirst, true}}, "a-b"),
              ElementsAre("_a", "b"));
}

}  // namespace
}  // namespace moe
