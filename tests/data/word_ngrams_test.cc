// Runs of thirteen words, told apart and found again whatever their punctuation, case and spaces.
#include "data/word_ngrams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "data/documents.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<uint64_t> ngrams(std::string_view text) {
  std::vector<uint64_t> hashes;
  for_each_ngram(text, [&](uint64_t hash) { hashes.push_back(hash); });
  return hashes;
}

constexpr char kThirteen[] = "one two three four five six seven eight nine ten eleven twelve thirteen";

TEST(WordNgramsTest, ThereIsOneForEachWordFromTheThirteenthOn) {
  EXPECT_THAT(ngrams(""), IsEmpty());
  EXPECT_THAT(ngrams("one two three four five six seven eight nine ten eleven twelve"), IsEmpty());
  EXPECT_THAT(ngrams(kThirteen), SizeIs(1));
  EXPECT_THAT(ngrams(std::string(kThirteen) + " fourteen fifteen"), SizeIs(3));
}

TEST(WordNgramsTest, CaseSpacesAndPunctuationDoNotCount) {
  EXPECT_EQ(ngrams("ONE, two;three\nfour -- five (six) seven\teight. Nine? \"ten\" Eleven/twelve thirteen!"),
            ngrams(kThirteen));
  // Letters of other scripts have cases too: Greek, Cyrillic, Latin with marks.
  EXPECT_EQ(ngrams("ΑΛΦΑ ΔВА ÉTÉ a b c d e f g h i j"), ngrams("αλφα δва été a b c d e f g h i j"));
}

TEST(WordNgramsTest, WordsAndTheirOrderDo) {
  EXPECT_NE(ngrams(kThirteen), ngrams("one two three four five six seven eight nine ten eleven twelve fourteen"));
  EXPECT_NE(ngrams(kThirteen), ngrams("two one three four five six seven eight nine ten eleven twelve thirteen"));
  EXPECT_NE(ngrams("ab c d e f g h i j k l m n"), ngrams("a bc d e f g h i j k l m n")) << "words, not letters";
}

TEST(WordNgramsTest, ARunIsFoundInsideAnotherText) {
  const std::vector<uint64_t> inside = ngrams(std::string("before it, ") + kThirteen + ". After it");
  EXPECT_THAT(inside, SizeIs(5));
  EXPECT_EQ(inside[2], ngrams(kThirteen).front());
}

TEST(WordNgramsTest, BrokenBytesPartWordsAndDoNoHarm) {
  EXPECT_EQ(ngrams("a b c d e f g h i j k l\xff\xfem"), ngrams("a b c d e f g h i j k l m"));
  EXPECT_THAT(ngrams("\xe2\x82"), IsEmpty());
}

TEST(ForEachTextTest, GivesTheTextsOfEveryKindOfLine) {
  const testing::TempDir folder;
  const auto texts = [&](const std::string& line) {
    write_file_atomically(folder / "lines.jsonl", line + "\n");
    std::vector<std::string> all;
    for_each_text(folder / "lines.jsonl", [&](std::string_view text) {
      if (!text.empty()) all.emplace_back(text);
    });
    return all;
  };
  EXPECT_THAT(texts("{\"text\": \"first\"}\n\n{\"text\": \"second\"}"), ElementsAre("first", "second"));
  EXPECT_THAT(
      texts(R"({"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer"}]})"),
      ElementsAre("ask", "answer"));
  EXPECT_THAT(texts(R"({"instruction": "add", "input": "1 and 1", "output": "2"})"),
              ElementsAre("add", "1 and 1", "2"));
  EXPECT_THAT(texts(R"({"ids": [1, 2, 3]})"), IsEmpty());
  EXPECT_THROW(texts("{\"text\": 3}"), InvalidArgument);
  EXPECT_THROW(texts("no json"), InvalidArgument);
}

}  // namespace
}  // namespace moe
