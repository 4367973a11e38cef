#include "data/tokenizer/tokenizer_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/tokenizer_json_file.h"
#include "testing/oracle_vectors.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;
using Offsets = std::vector<std::pair<int64_t, int64_t>>;
using testing::added;
using testing::byte_level_file;
using testing::kFamilies;
constexpr char kSpace[] = "\xE2\x96\x81";  // U+2581

Encoding encode(const json& file, const std::string& text, SpecialTokens specials = SpecialTokens::kParse) {
  return JsonTokenizer(file.dump(), "test").encode(text, specials);
}

TEST(JsonTokenizerTest, MatchesTheRecordedOracleForEveryFamily) {
  int families = 0;
  for (const auto& folder : fs::directory_iterator(kFamilies)) {
    const auto tokenizer = Tokenizer::from_directory(folder.path());
    const testing::OracleComparison result =
        testing::compare_with_oracle_file(*tokenizer, folder.path() / "vectors.bin");
    EXPECT_EQ(result.encodings, 120) << folder.path();
    EXPECT_GE(result.decodings, 20) << folder.path();
    EXPECT_EQ(result.differences, 0) << folder.path();
    ++families;
  }
  EXPECT_EQ(families, 9);
}

TEST(JsonTokenizerTest, MergesByRankAndCachesNothingWrong) {
  const json file = byte_level_file({"a", "b", "c", "ab", "bc", "abc"}, {"b c", "a b", "a bc"});
  const JsonTokenizer tokenizer(file.dump(), "test");
  for (int repeat = 0; repeat < 2; ++repeat) {
    EXPECT_EQ(tokenizer.encode("abc").ids, (Ids{5}));
    EXPECT_EQ(tokenizer.encode("abab").ids, (Ids{3, 3}));
    EXPECT_EQ(tokenizer.encode("ababc").offsets, (Offsets{{0, 2}, {2, 5}}));
  }
}

TEST(JsonTokenizerTest, IgnoreMergesTakesAWholeWord) {
  json file = byte_level_file({"a", "b", "c", "ab", "abc"}, {"a b"});
  EXPECT_EQ(encode(file, "abc").ids, (Ids{3, 2}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(file, "abc").ids, (Ids{4}));
}

TEST(JsonTokenizerTest, BytesWithoutATokenVanishAndOffsetsShift) {
  const json file = byte_level_file({"a", "b"}, {});
  EXPECT_EQ(encode(file, "axb").ids, (Ids{0, 1}));
  EXPECT_EQ(encode(file, "axb").offsets, (Offsets{{0, 1}, {1, 2}})) << "sums of lengths, as in the library";
}

// The whole of a character is what a part of it came from.
TEST(JsonTokenizerTest, OffsetsAreWholeCharacters) {
  const json file = byte_level_file({"a", "\xC3\x83", "\xC2\xA9"}, {});  // the byte map's spellings of C3 and A9
  EXPECT_EQ(encode(file, "a\xC3\xA9").ids, (Ids{0, 1, 2}));
  EXPECT_EQ(encode(file, "a\xC3\xA9").offsets, (Offsets{{0, 1}, {1, 3}, {1, 3}}));
}

TEST(JsonTokenizerTest, CutsAddedTokensOutByTheirRules) {
  json file = byte_level_file({"a", "b", "\xC4\xA0"}, {});
  file["added_tokens"] = {added(3, "<|x|>"), added(4, "<|x|>>"), added(5, "ab", {"single_word"}),
                          added(6, "<l>", {"lstrip", "special"}), added(7, "<r>", {"rstrip"})};
  EXPECT_EQ(encode(file, "a<|x|>>b").ids, (Ids{0, 4, 1})) << "the longest at the leftmost place";
  EXPECT_EQ(encode(file, "ab ab!aba").ids, (Ids{5, 2, 5, 0, 1, 0}));
  EXPECT_EQ(encode(file, "a  <l>b").offsets, (Offsets{{0, 1}, {1, 6}, {6, 7}}));
  EXPECT_EQ(encode(file, "a<r>  b").offsets, (Offsets{{0, 1}, {1, 6}, {6, 7}}));
  // As text, a special token is text; one that is not special stays a token.
  EXPECT_EQ(encode(file, "<l>a<r>", SpecialTokens::kAsText).ids, (Ids{0, 7}));
}

// Runs of spaces as Phi-2 has them: cut out before the pattern sees them.
TEST(JsonTokenizerTest, TakesTheLongestRunOfSpaces) {
  json file = byte_level_file({"a", "b", "\xC4\xA0"}, {});
  file["added_tokens"] = {added(3, "  ", {"normalized"}), added(4, "    ", {"normalized"})};
  EXPECT_EQ(encode(file, "a      b").ids, (Ids{0, 4, 3, 1}));
}

/// LLaMA-2's pipeline over a handful of tokens.
json byte_fallback_file() {
  json file = byte_level_file({"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "a", "b", kSpace, std::string(kSpace) + "a",
                               std::string(kSpace) + "b"},
                              {std::string(kSpace) + " a", std::string(kSpace) + " b"});
  file["normalizer"] = {{"type", "Sequence"},
                        {"normalizers",
                         {{{"type", "Prepend"}, {"prepend", kSpace}},
                          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}}}}};
  file["pre_tokenizer"] = nullptr;
  file["added_tokens"] = {added(0, "<unk>", {"special"}), added(1, "<s>", {"special"}), added(2, "</s>", {"special"})};
  file["model"].update({{"unk_token", "<unk>"}, {"byte_fallback", true}, {"fuse_unk", true}});
  file["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", json::array()},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}};
  return file;
}

TEST(JsonTokenizerTest, PrefixesEveryPieceOrTheFirstAsTheFileSays) {
  json file = byte_fallback_file();
  EXPECT_EQ(encode(file, "a<s>b</s>a").ids, (Ids{8, 1, 9, 2, 8})) << "legacy: each letter with its own prefix";
  EXPECT_EQ(encode(file, "a<s>b</s>a").offsets, (Offsets{{0, 1}, {1, 4}, {4, 5}, {5, 9}, {9, 10}}));
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", kSpace}, {"prepend_scheme", "first"}, {"split", false}};
  EXPECT_EQ(encode(file, "a<s>b</s>a").ids, (Ids{8, 1, 6, 2, 5}));
}

TEST(JsonTokenizerTest, FallsBackToBytesOrTheUnknownToken) {
  const json file = byte_fallback_file();
  EXPECT_EQ(encode(file, "a\xC3\xA9").ids, (Ids{8, 3, 4}));
  EXPECT_EQ(encode(file, "a\xC3\xA9").offsets, (Offsets{{0, 1}, {1, 3}, {1, 3}}));
  EXPECT_EQ(encode(file, "axyz b").ids, (Ids{8, 0, 9})) << "fused";
  json separate = file;
  separate["model"]["fuse_unk"] = false;
  EXPECT_EQ(encode(separate, "axyz b").ids, (Ids{8, 0, 0, 0, 9}));
}

TEST(JsonTokenizerTest, SaysWhatComesBeforeAndAfterADocument) {
  const testing::TempDir folder;
  write_file_atomically(folder / "tokenizer.json", byte_fallback_file().dump());
  EXPECT_EQ(Tokenizer::from_directory(folder.path())->bos_id(), 1);
  EXPECT_EQ(Tokenizer::from_directory(folder.path())->eos_id(), std::nullopt);
  const std::string digest = Tokenizer::from_directory(folder.path())->digest();
  write_file_atomically(folder / "special_tokens_map.json",
                        R"({"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>"})");
  EXPECT_EQ(Tokenizer::from_directory(folder.path())->eos_id(), 2);
  EXPECT_EQ(Tokenizer::from_directory(folder.path())->bos_token(), "<s>");
  EXPECT_NE(Tokenizer::from_directory(folder.path())->digest(), digest);
  write_file_atomically(folder / "tokenizer_config.json",
                        R"({"eos_token": "<unk>", "bos_token": null, "added_tokens_decoder": {}})");
  const auto tokenizer = Tokenizer::from_directory(folder.path());
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->eos_token(), "<unk>");
  EXPECT_EQ(tokenizer->bos_token(), "");
  write_file_atomically(folder / "tokenizer_config.json", R"({"eos_token": "<end>", "added_tokens_decoder": {}})");
  EXPECT_EQ(Tokenizer::from_directory(folder.path())->eos_id(), tokenizer->vocab_size()) << "a role adds its token";
  write_file_atomically(folder / "tokenizer_config.json", R"({"eos_token": 7, "added_tokens_decoder": {}})");
  EXPECT_THROW(Tokenizer::from_directory(folder.path()), Corruption);
}

TEST(JsonTokenizerTest, ThreadsShareIt) {
  const auto tokenizer = Tokenizer::from_directory(kFamilies / "qwen2");
  std::vector<std::string> texts;
  CounterRng rng(3, kStreamTest);
  for (int i = 0; i < 400; ++i) {
    std::string text;
    for (uint64_t k = rng.below(200); k > 0; --k)
      text += rng.below(5) == 0 ? " e\xCC\x81" : std::string(1, static_cast<char>(' ' + rng.below(90)));
    texts.push_back(text);
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::vector<Encoding> one = tokenizer->encode_batch(views, 1), four = tokenizer->encode_batch(views, 4);
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(one[i].ids, four[i].ids);
    ASSERT_EQ(one[i].offsets, four[i].offsets);
  }
}

TEST(JsonTokenizerTest, StreamsWithoutBrokenCharacters) {
  for (const char* family : {"llama2", "llama3"}) {
    const auto tokenizer = Tokenizer::from_directory(kFamilies / family);
    const std::string text = "a\xE4\xBD\xA0z \xF0\x9F\xA6\x99!";
    TextStream stream(*tokenizer);
    std::string all;
    for (const int32_t id : tokenizer->encode(text).ids) {
      const std::string part = stream.push(id);
      EXPECT_EQ(part.find("\xEF\xBF\xBD"), std::string::npos) << family << ": a broken character was shown";
      all += part;
    }
    EXPECT_EQ(all + stream.finish(), text) << family;
  }
}

}  // namespace
}  // namespace moe
