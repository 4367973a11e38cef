#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/sentencepiece_tokenizer.h"
#include "testing/token_vectors.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
const fs::path kFixtures = fs::path(MOE_SOURCE_DIR) / "tests/testing/fixtures";
const fs::path kBase = fs::path(MOE_SOURCE_DIR) / "examples/base-7m";

TEST(TokenizerTest, MatchesRecordedSentencePiece) {
  EXPECT_EQ(testing::compare_with_vectors(*Tokenizer::from_directory(kFixtures / "stories260k"), kFixtures / "tokens_stories260k.jsonl"), 200);
  EXPECT_EQ(testing::compare_with_vectors(*Tokenizer::from_directory(kFixtures / "babyllama-105"), kFixtures / "tokens_babyllama-105.jsonl"), 200);
  EXPECT_EQ(testing::compare_with_vectors(*Tokenizer::from_directory(kBase), kFixtures / "tokens_base-7m.jsonl"), 200);
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8WithTheByte) {
  const auto tokenizer = Tokenizer::from_directory(kBase);
  for (const char* bad : {"ab\xFFyz", "ab\xC0\x80", "ab\xED\xA0\x80", "ab\xF5\x80\x80\x80", "ab\xE2\x82"}) {
    try {
      tokenizer->encode(bad);
      ADD_FAILURE() << "accepted";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("byte 2"));
    }
  }
}

TEST(TokenizerTest, DamagedFilesAreRefusedNotCrashed) {
  const std::string whole = read_file(kFixtures / "stories260k/tokenizer.model");
  int refused = 0, loaded = 0;
  const auto attempt = [&](const std::string& bytes) {
    try {
      SentencePieceTokenizer(bytes, "damaged").encode("Once upon a time \xF0\x9F\xA6\x99");
      ++loaded;
    } catch (const InvalidArgument&) {
      ++refused;
    }
  };
  for (size_t size = 0; size < whole.size(); size += 7) attempt(whole.substr(0, size));
  CounterRng rng(1, kStreamTest);
  for (int i = 0; i < 500; ++i) {
    std::string bytes = whole;
    bytes[rng.below(bytes.size())] = static_cast<char>(rng.next_u32());
    attempt(bytes);
  }
  std::cout << refused << " damaged files refused, " << loaded << " still readable, seed 1\n";
  EXPECT_GT(refused, 300);
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

}  // namespace
}  // namespace moe
