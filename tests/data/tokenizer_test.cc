#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file_io.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "testing/message_of.h"
#include "testing/oracle_vectors.h"
#include "testing/paths.h"
#include "testing/sentencepiece_writer.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;
using Offsets = std::vector<std::pair<int64_t, int64_t>>;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
const fs::path kFixtures = fs::path(testing::source_dir()) / "tests/testing/fixtures";
const fs::path kBase = fs::path(testing::source_dir()) / "examples/base-7m";

TEST(TokenizerTest, MatchesRecordedSentencePiece) {
  for (const std::string name : {"stories260k", "babyllama-105", "base-7m"}) {
    const auto tokenizer = Tokenizer::from_directory(name == "base-7m" ? kBase : kFixtures / name);
    const testing::OracleComparison result =
        testing::compare_with_oracle_file(*tokenizer, kFixtures / ("tokens_" + name + ".bin"));
    EXPECT_EQ(result.encodings, 120) << name;
    EXPECT_EQ(result.decodings, 48) << name;
    EXPECT_EQ(result.differences, 0) << name;
  }
}

// Ids by hand from the piece lists, offsets by hand from the text.
TEST(TokenizerTest, GivesTheBytesThatEachTokenCameFrom) {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown, 0},
                  {"<s>", 0, PieceType::kControl, 0},
                  {"</s>", 0, PieceType::kControl, 0},
                  {"\xE2\x96\x81", -9, PieceType::kNormal, 0},
                  {"a", -8, PieceType::kNormal, 0},
                  {"\xC3\xA9", -7, PieceType::kNormal, 0},
                  {"a\xC3\xA9", -1, PieceType::kNormal, 0},
                  {"\xE2\x96\x81"
                   "a",
                   -2, PieceType::kNormal, 0}};
  const auto encode = [&](bool collapse, const std::string& text) {
    model.remove_extra_whitespaces = collapse;
    return SentencePieceTokenizer(testing::write_sentencepiece_model(model), "test").encode(text);
  };
  // The dummy prefix has no byte of its own; "aé" (score -1) merges before "▁a" (-2).
  EXPECT_EQ(encode(false, "a\xC3\xA9 a").ids, (Ids{3, 6, 7}));
  EXPECT_EQ(encode(false, "a\xC3\xA9 a").offsets, (Offsets{{0, 0}, {0, 3}, {3, 5}}));
  EXPECT_EQ(encode(false, "  a").ids, (Ids{3, 3, 7}));
  EXPECT_EQ(encode(false, "  a").offsets, (Offsets{{0, 0}, {0, 1}, {1, 3}}));
  // Collapsed: leading and trailing spaces belong to no token, a run of spaces counts as its first.
  EXPECT_EQ(encode(true, "  a   a  ").ids, (Ids{7, 7}));
  EXPECT_EQ(encode(true, "  a   a  ").offsets, (Offsets{{2, 3}, {3, 7}}));
  // Neighbouring unknown characters are one token.
  EXPECT_EQ(encode(true,
                   "axy\xF0\x9F\xA6\x99"
                   "a")
                .ids,
            (Ids{7, 0, 4}));
  EXPECT_EQ(encode(true,
                   "axy\xF0\x9F\xA6\x99"
                   "a")
                .offsets,
            (Offsets{{0, 1}, {1, 7}, {7, 8}}));
  EXPECT_TRUE(encode(true, "   ").ids.empty());
  EXPECT_TRUE(encode(false, "").ids.empty());
}

TEST(TokenizerTest, ControlTokensNeverComeFromText) {
  for (const fs::path& directory : {kBase, kFixtures / "stories260k", kFixtures / "babyllama-105"}) {
    const auto tokenizer = Tokenizer::from_directory(directory);
    EXPECT_EQ(tokenizer->bos_id(), 1);
    EXPECT_EQ(tokenizer->eos_id(), 2);
    for (const int32_t id : tokenizer->encode("<s>a</s> <s></s>").ids) EXPECT_TRUE(id != 1 && id != 2);
    EXPECT_EQ(tokenizer->decode({1, 2, 1}), "");
  }
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8WithTheByte) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  for (const char* bad : {"ab\xFFyz", "ab\xC0\x80", "ab\xED\xA0\x80", "ab\xF5\x80\x80\x80", "ab\xE2\x82", "ab\x80"}) {
    EXPECT_THAT([&] { tokenizer->encode(bad); }, ThrowsMessage<InvalidArgument>(HasSubstr("byte 2")));
  }
}

// An embedding may have more rows than the tokenizer has tokens.
TEST(TokenizerTest, IdsBeyondTheVocabularyAreNothing) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  const Ids text = tokenizer->encode("The old man").ids;
  Ids padded;
  for (const int32_t id : text) padded.insert(padded.end(), {4096, id, 100'000'000});
  EXPECT_EQ(tokenizer->decode(padded), "The old man");
  EXPECT_FALSE(tokenizer->has_token(4096));
  EXPECT_THROW(tokenizer->id_to_token(4096), InvalidArgument);
  EXPECT_THROW(tokenizer->decode({-1}), InvalidArgument);
}

TEST(TokenizerTest, NamesTheFolderWithoutATokenizer) {
  const testing::TempDir folder;
  const auto message = [&] { return testing::message_of([&] { Tokenizer::from_directory(folder.path()); }); };
  EXPECT_THAT(message(), HasSubstr(folder.path().string() + ": there is no tokenizer.json and no tokenizer.model"));
  write_file_atomically(folder / "tokenizer.json", "{}");
  fs::copy_file(kBase / "tokenizer.model", folder / "tokenizer.model");
  EXPECT_THAT(message(), HasSubstr("tokenizer.json: "))
      << "a damaged tokenizer.json is no reason to take the other file";
}

// Ids as the HF form of such a model gives them, each stretch with a dummy prefix of its own.
TEST(TokenizerTest, ParsesSpecialPiecesWhenAsked) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  const auto alone = [&](const std::string& text) { return tokenizer->encode(text).ids; };
  const Encoding encoding = tokenizer->encode("a<s>b</s>c<unk>", SpecialTokens::kParse);
  Ids expected;
  for (const Ids& part : {alone("a"), Ids{1}, alone("b"), Ids{2}, alone("c"), Ids{0}})
    expected.insert(expected.end(), part.begin(), part.end());
  EXPECT_EQ(encoding.ids, expected);
  EXPECT_EQ(encoding.offsets.front(), std::make_pair(int64_t{0}, int64_t{1}));
  EXPECT_EQ(encoding.offsets[alone("a").size()], std::make_pair(int64_t{1}, int64_t{4}));
  EXPECT_EQ(encoding.offsets.back(), std::make_pair(int64_t{10}, int64_t{15}));
  EXPECT_EQ(tokenizer->token_to_id("</s>"), 2);
  EXPECT_EQ(tokenizer->token_to_id("<0x0A>"), 13);
  EXPECT_EQ(tokenizer->token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer->id_to_token(1), "<s>");
  EXPECT_EQ(tokenizer->bos_token() + tokenizer->eos_token(), "<s></s>");
}

TEST(TokenizerTest, BatchesKeepTheirOrderOnAnyNumberOfThreads) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  std::vector<std::string> texts;
  for (int i = 0; i < 300; ++i) texts.push_back("text number " + std::to_string(i) + std::string(i % 7, '!'));
  std::vector<std::string_view> views(texts.begin(), texts.end());
  for (const int threads : {1, 2, 5}) {
    const std::vector<Encoding> encodings = tokenizer->encode_batch(views, threads);
    ASSERT_EQ(encodings.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) ASSERT_EQ(encodings[i].ids, tokenizer->encode(texts[i]).ids) << i;
  }
  EXPECT_TRUE(tokenizer->encode_batch({}, 2).empty());
  EXPECT_THROW(tokenizer->encode_batch(views, 0), InvalidArgument);
  views[250] = "ab\xFF";
  views[270] = "\xFF";
  EXPECT_THAT([&] { tokenizer->encode_batch(views, 3); },
              ThrowsMessage<InvalidArgument>(HasSubstr("text 250 of the batch: text is not UTF-8 at byte 2")));
}

TEST(TokenizerTest, DigestIsOfTheFile) {
  EXPECT_EQ(Tokenizer::from_directory(kBase)->digest(), xxh3_hex_of_file(kBase / "tokenizer.model"));
  EXPECT_NE(Tokenizer::from_directory(kBase)->digest(), Tokenizer::from_directory(kFixtures / "stories260k")->digest());
}

TEST(TextStreamTest, HoldsBackAnIncompleteCharacter) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  const std::string text = "a\xE4\xBD\xA0z \xF0\x9F\xA6\x99!";
  TextStream stream(*tokenizer);
  std::string all;
  for (const int32_t id : tokenizer->encode(text).ids) {
    const std::string part = stream.push(id);
    EXPECT_EQ(part.find("\xEF\xBF\xBD"), std::string::npos) << "a broken character was shown";
    all += part;
  }
  EXPECT_EQ(all + stream.finish(), text);
}

TEST(TextStreamTest, ShowsABrokenCharacterOnceItCannotBeCompletedOrAtTheEnd) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  const int32_t first_byte = 3 + 0xE4;  // byte pieces start at id 3
  const int32_t letter = tokenizer->encode("z").ids.back();
  TextStream stream(*tokenizer);
  EXPECT_EQ(stream.push(first_byte), "");
  const std::string shown = stream.push(letter);
  EXPECT_EQ(shown.substr(0, 3), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.push(first_byte), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace moe
