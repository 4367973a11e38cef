// Files of the kind tokenizer.json, and texts, that are refused, with file, key and value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/tokenizer_json_file.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Ids = std::vector<int32_t>;
using testing::added;
using testing::byte_level_file;
using testing::kByteLevel;
using testing::kFamilies;

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
  EXPECT_EQ(JsonTokenizer(good.dump(), "test").encode("ab", SpecialTokens::kParse).ids, (Ids{2}));
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
