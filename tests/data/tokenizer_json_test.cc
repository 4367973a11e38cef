#include "data/tokenizer/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "testing/oracle_vectors.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Ids = std::vector<int32_t>;
using Offsets = std::vector<std::pair<int64_t, int64_t>>;
const fs::path kFamilies = fs::path(MOE_SOURCE_DIR) / "tests/testing/fixtures/tokenizers";
constexpr char kSpace[] = "\xE2\x96\x81";  // U+2581

const json kByteLevel = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", true}};

/// A byte-level file with the given tokens (as the file spells them) and merges.
json byte_level_file(const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
  json file = {{"version", "1.0"},          {"added_tokens", json::array()},
               {"normalizer", nullptr},     {"pre_tokenizer", kByteLevel},
               {"post_processor", nullptr}, {"decoder", kByteLevel}};
  file["model"] = {{"type", "BPE"}, {"vocab", json::object()}, {"merges", merges}, {"unk_token", nullptr}};
  for (size_t id = 0; id < tokens.size(); ++id) file["model"]["vocab"][tokens[id]] = id;
  return file;
}

json added(int id, const std::string& content, const std::vector<std::string>& flags = {}) {
  json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", false}};
  for (const std::string& flag : flags) token[flag] = true;
  return token;
}

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

TEST(JsonTokenizerTest, RefusesTextThatIsNotUtf8AndPassesOverIdsThatDoNotExist) {
  const auto tokenizer = Tokenizer::from_directory(kFamilies / "llama3");
  for (const char* bad : {"ab\xFFyz", "ab\xC0\x80", "ab\xED\xA0\x80", "ab\xF5\x80\x80\x80", "ab\xE2\x82", "ab\x80"}) {
    EXPECT_THAT([&] { tokenizer->encode(bad); }, ThrowsMessage<InvalidArgument>(HasSubstr("byte 2")));
  }
  EXPECT_THROW(tokenizer->decode({-1}), InvalidArgument);
  // An embedding may have more rows than the tokenizer has tokens.
  Ids padded = tokenizer->encode("Once").ids;
  padded.insert(padded.begin() + 1, static_cast<int32_t>(tokenizer->vocab_size()));
  EXPECT_EQ(tokenizer->decode(padded), "Once");
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

/// A change to a good file, and what the message must hold.
struct Damage {
  std::string message;
  std::function<void(json&)> apply;
};

TEST(JsonTokenizerTest, RefusesDamageByFileKeyAndValue) {
  const auto model = [](const char* key, const json& value) {
    return [key, value](json& file) { file["model"][key] = value; };
  };
  const auto node = [](const char* key, const json& value) { return [key, value](json& file) { file[key] = value; }; };
  const json regex = {
      {"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const std::vector<Damage> all = {
      {"the document has no `model`", [](json& file) { file.erase("model"); }},
      {"model is 5; expected an object", node("model", 5)},
      {"model.type is \"WordPiece\", which is not supported", model("type", "WordPiece")},
      {"model has no `vocab`", [](json& file) { file["model"].erase("vocab"); }},
      {"model.vocab is [\"a\"]; expected an object", model("vocab", json::array({"a"}))},
      {"model.vocab is empty", model("vocab", json::object())},
      {"model.vocab[\"a\"] is \"x\"; expected an id", [](json& file) { file["model"]["vocab"]["a"] = "x"; }},
      {"model.vocab[\"a\"] is -1; expected an id", [](json& file) { file["model"]["vocab"]["a"] = -1; }},
      {"model.vocab[\"a\"] is 1.5; expected an id", [](json& file) { file["model"]["vocab"]["a"] = 1.5; }},
      {"model.vocab[\"a\"] is 4000000000; expected an id",
       [](json& file) { file["model"]["vocab"]["a"] = 4000000000; }},
      {"model.vocab[\"b\"] has the id 0, as has \"a\"", [](json& file) { file["model"]["vocab"]["b"] = 0; }},
      {"model has no `merges`", [](json& file) { file["model"].erase("merges"); }},
      {"model.merges[1] is \"a  b\"; expected", model("merges", {"a b", "a  b"})},
      {"model.merges[0] is [\"a\",\"b\",\"c\"]; expected", model("merges", {{"a", "b", "c"}})},
      {"model.merges[0] is 7; expected", model("merges", {7})},
      {"model.merges[0] is [\"q\",\"b\"]: its left part is not in model.vocab", model("merges", {"q b"})},
      {"model.merges[0] is [\"a\",\"q\"]: its right part is not in model.vocab", model("merges", {"a q"})},
      {"model.merges[0] is [\"b\",\"a\"]: its result is not in model.vocab", model("merges", {"b a"})},
      {"model.merges[1] is [\"a\"]; expected", model("merges", {{"a", "b"}, json::array({"a"})})},
      {"model.merges[0] is {}; expected", model("merges", json::array({json::object()}))},
      {"model.merges is {}; expected a list", model("merges", json::object())},
      {"model.vocab[\"a\"] is a list; expected an id", [](json& file) { file["model"]["vocab"]["a"] = {1}; }},
      {"model.vocab[\"b\"] is 70000; expected an id from 0 to 65542",
       [](json& file) { file["model"]["vocab"]["b"] = 70000; }},
      {"model.dropout is 0.1, which is not supported", model("dropout", 0.1)},
      {"model.continuing_subword_prefix is \"##\", which is not supported", model("continuing_subword_prefix", "##")},
      {"model.end_of_word_suffix is \"</w>\", which is not supported", model("end_of_word_suffix", "</w>")},
      {"model.unk_token is \"<unk>\", which is not in model.vocab", model("unk_token", "<unk>")},
      {"model.fuse_unk is 1; expected true or false", model("fuse_unk", 1)},
      {"normalizer is of the type 'NFKC', which is not supported", node("normalizer", {{"type", "NFKC"}})},
      {"normalizer has no `type`", node("normalizer", json::object())},
      {"normalizer is \"NFC\"; expected an object", node("normalizer", "NFC")},
      {"normalizer.normalizers[1] is of the type 'Lowercase'",
       node("normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}})},
      {"normalizer.pattern.Regex is the regular expression \" +\"",
       node("normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", ""}})},
      {"normalizer.pattern.String is empty",
       node("normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}})},
      {"pre_tokenizer.pattern.Regex is the regular expression \"[a-z]+\"", node("pre_tokenizer", regex)},
      {"pre_tokenizer is of the type 'Whitespace'", node("pre_tokenizer", {{"type", "Whitespace"}})},
      {"pre_tokenizer.pretokenizers[1] stands behind a ByteLevel",
       node("pre_tokenizer", {{"type", "Sequence"},
                              {"pretokenizers", {kByteLevel, {{"type", "Digits"}, {"individual_digits", true}}}}})},
      {"pre_tokenizer.pretokenizers[64] is one more than the 64 nodes",
       node("pre_tokenizer",
            {{"type", "Sequence"},
             {"pretokenizers", json::array_t(10000, {{"type", "Digits"}, {"individual_digits", true}})}})},
      {"pre_tokenizer.replacement is \"ab\"; expected one character",
       node("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}})},
      {"pre_tokenizer.prepend_scheme is \"second\"",
       node("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "second"}})},
      {"pre_tokenizer.behavior is \"Merged\"",
       node("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", "Merged"}})},
      {"post_processor is of the type 'RobertaProcessing'", node("post_processor", {{"type", "RobertaProcessing"}})},
      {"post_processor puts the id 99 before a text, which no token has",
       node("post_processor", {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                               {"special_tokens", {{"x", {{"id", "x"}, {"ids", {99}}}}}}})},
      {"post_processor puts 2 tokens before a text",
       node("post_processor", {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                               {"special_tokens", {{"x", {{"id", "x"}, {"ids", {0, 1}}}}}}})},
      {"post_processor.special_tokens has no `y`",
       node("post_processor", {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "y"}}}}}},
                               {"special_tokens", json::object()}})},
      {"decoder is null", node("decoder", nullptr)},
      {"decoder is of the type 'WordPiece'", node("decoder", {{"type", "WordPiece"}})},
      {"decoder has a node other than Strip and Fuse behind",
       node("decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}})},
      {"decoder.start is -1; expected an integer",
       node("decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}})},
      {"added_tokens is {}; expected a list", node("added_tokens", json::object())},
      {"added_tokens[0].id is 9, but \"<x>\" is the next after the vocabulary: 3",
       node("added_tokens", json::array({added(9, "<x>")}))},
      {"added_tokens[0].id is 2, but \"a\" stands in the vocabulary as 0",
       node("added_tokens", json::array({added(2, "a")}))},
      {"added_tokens[1] adds \"<x>\" a second time",
       node("added_tokens", json::array({added(3, "<x>"), added(3, "<x>")}))},
      {"added_tokens[0].content is empty", node("added_tokens", json::array({added(3, "")}))},
      {"added_tokens[0] has no `id`", node("added_tokens", json::array({{{"content", "<x>"}}}))},
  };
  const json good = byte_level_file({"a", "b", "ab"}, {"a b"});
  EXPECT_EQ(encode(good, "ab").ids, (Ids{2}));
  for (const Damage& damage : all) {
    json file = good;
    damage.apply(file);
    EXPECT_THAT([&] { JsonTokenizer(file.dump(), "dir/tokenizer.json"); },
                ThrowsMessage<InvalidArgument>(HasSubstr("dir/tokenizer.json: " + damage.message)));
  }
}

TEST(JsonTokenizerTest, RefusalsOfAMegabyteAreShort) {
  const std::string longer(1'000'000, 'x');
  const json good = byte_level_file({"a", "b", "ab"}, {"a b"});
  for (const auto& [key, value] : std::map<std::string, json>{{"decoder", {{"type", longer}}},
                                                              {"normalizer", {{"type", longer}}},
                                                              {"added_tokens", json::array({added(9, longer)})}}) {
    json file = good;
    file[key] = value;
    try {
      JsonTokenizer(file.dump(), "dir/tokenizer.json");
      ADD_FAILURE() << "accepted: " << key;
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), HasSubstr("dir/tokenizer.json: " + key));
      EXPECT_LT(std::string(error.what()).size(), 600U) << key;
    }
  }
}

TEST(JsonTokenizerTest, RefusesATextThatItsNormalizerBlowsUp) {
  json file = byte_level_file({"a", "b", "ab"}, {"a b"});
  json replaces = json::array();
  for (int i = 0; i < 60; ++i)
    replaces.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaa"}});
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", replaces}};
  const JsonTokenizer tokenizer(file.dump(), "test");
  EXPECT_EQ(tokenizer.encode("b").ids, (Ids{1}));
  EXPECT_THAT([&] { tokenizer.encode("a"); }, ThrowsMessage<InvalidArgument>(HasSubstr("normalizer makes")));
}

TEST(JsonTokenizerTest, RefusesWhatIsNoJson) {
  const std::string good = byte_level_file({"a", "b", "ab"}, {"a b"}).dump();
  std::string twice = good;
  twice.replace(twice.find("\"a\":0"), 5, "\"a\":0,\"a\":0");
  for (const std::string& bad :
       {std::string(), std::string("{"), good.substr(0, good.size() / 2), std::string("[]"), std::string(100000, '['),
        twice, std::string("{\"model\": 1e999}"), good + "x", std::string("{\"a\": \"\xFF\"}")}) {
    EXPECT_THAT([&] { JsonTokenizer(bad, "dir/tokenizer.json"); },
                ThrowsMessage<InvalidArgument>(HasSubstr("dir/tokenizer.json: ")));
  }
}

// Any byte of a real file changed: a clear error or a tokenizer that works.
TEST(JsonTokenizerTest, SurvivesDamagedBytes) {
  const std::string good = read_file(kFamilies / "llama2" / "tokenizer.json");
  CounterRng rng(17, kStreamTest);
  int refused = 0;
  constexpr int kFiles = 300;
  for (int i = 0; i < kFiles; ++i) {
    std::string bytes = good;
    for (uint64_t k = 1 + rng.below(3); k > 0; --k) bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    try {
      const JsonTokenizer tokenizer(bytes, "damaged");
      tokenizer.decode(tokenizer.encode("Once upon a  time \xF0\x9F\xA6\x99 <s>\n", SpecialTokens::kParse).ids);
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), AnyOf(HasSubstr("damaged: "), HasSubstr("token id")));
      ++refused;
    }
  }
  std::cout << kFiles << " damaged files, seed 17, " << refused << " refused\n";
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace moe
