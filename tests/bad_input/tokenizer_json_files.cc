#include <functional>

#include "bad_input/bad_files.h"

namespace moe::testing {
namespace {

using nlohmann::json;
constexpr char kFile[] = "tokenizer.json", kConfig[] = "tokenizer_config.json";

BadFile changed(const std::string& name, const std::function<void(json&)>& change, std::vector<std::string> says) {
  json file = good_tokenizer_json();
  change(file);
  return {name, kFile, file.dump(), std::move(says)};
}

/// What stands at a place, such as "/model/vocab", gets another value; the message names the place by its last key, and
/// the value.
BadFile with(const std::string& pointer, const json& value, std::vector<std::string> says = {}) {
  says.push_back(pointer.substr(pointer.rfind('/') + 1));
  return changed(
      pointer.substr(1) + "_is_" + value.dump(), [&](json& file) { file[json::json_pointer(pointer)] = value; },
      std::move(says));
}

BadFile without(const std::string& parent, const std::string& key, std::vector<std::string> says = {}) {
  says.push_back("`" + key + "`");
  return changed(
      "without_" + key, [&](json& file) { file[json::json_pointer(parent)].erase(key); }, std::move(says));
}

void add_models(std::vector<BadFile>& files) {
  files.push_back(without("", "model", {"has no"}));
  files.push_back(with("/model", json::array(), {"expected an object"}));
  for (const char* type : {"WordPiece", "Unigram", "WordLevel"})
    files.push_back(with("/model/type", type, {type, "only BPE"}));
  files.push_back(with("/model/dropout", 0.1, {"0.1", "random"}));
  files.push_back(with("/model/continuing_subword_prefix", "##", {"\"##\""}));
  files.push_back(with("/model/end_of_word_suffix", "</w>", {"\"</w>\""}));
  files.push_back(with("/model/fuse_unk", "yes", {"\"yes\"", "true or false"}));
  files.push_back(with("/model/byte_fallback", 1, {"is 1", "true or false"}));
  files.push_back(with("/model/ignore_merges", json::object(), {"true or false"}));
  files.push_back(with("/model/unk_token", "<none>", {"\"<none>\"", "not in model.vocab"}));
  files.push_back(with("/model/unk_token", 3, {"a string"}));
  files.push_back(without("/model", "vocab", {"model"}));
  files.push_back(with("/model/vocab", json::object(), {"is empty"}));
  files.push_back(with("/model/vocab", json::array({"a", "b"}), {"expected an object"}));
  files.push_back(with("/model/vocab/ab", "3", {"\"3\"", "an id"}));
  files.push_back(with("/model/vocab/ab", 3.5, {"3.5", "an id"}));
  files.push_back(with("/model/vocab/ab", -1, {"-1", "an id"}));
  files.push_back(with("/model/vocab/ab", 2'000'000'000, {"2000000000", "an id"}));
  files.push_back(with("/model/vocab/ab", 0, {"has the id 0", "\"a\""}));
  files.push_back(without("/model", "merges", {"model"}));
  files.push_back(with("/model/merges", "a b", {"expected a list"}));
  files.push_back(with("/model/merges/0", "ab", {"model.merges[0]", "\"ab\"", "one space between"}));
  files.push_back(with("/model/merges/0", "a b a", {"model.merges[0]", "one space between"}));
  files.push_back(with("/model/merges/0", 7, {"model.merges[0]", "is 7"}));
  files.push_back(with("/model/merges/0", json::array({"a"}), {"model.merges[0]", "[\"a\"]"}));
  files.push_back(with("/model/merges/0", json::array({"a", 2}), {"model.merges[0]"}));
  files.push_back(with("/model/merges/0", "a z", {"model.merges[0]", "its right part is not in model.vocab"}));
  files.push_back(
      with("/model/merges/0", json::array({"z", "a"}), {"model.merges[0]", "its left part is not in model.vocab"}));
  files.push_back(with("/model/merges/0", "b a", {"model.merges[0]", "its result is not in model.vocab"}));
}

void add_nodes(std::vector<BadFile>& files) {
  const auto node = [&](const char* place, const json& value, std::vector<std::string> says) {
    says.emplace_back(place);
    files.push_back(with(std::string("/") + place, value, std::move(says)));
  };
  node("normalizer", {{"type", "NFKC"}}, {"'NFKC'", "NFC, Prepend, Replace"});
  node("normalizer", {{"type", "Lowercase"}}, {"'Lowercase'"});
  node("normalizer", "NFC", {"expected an object"});
  node("normalizer", {{"kind", "NFC"}}, {"`type`"});
  node("normalizer", {{"type", 3}}, {"is 3", "a string"});
  node("normalizer", {{"type", "Prepend"}}, {"`prepend`"});
  node("normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", " "}},
       {"regular expression", "\" +\""});
  node("normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", " "}}, {"is empty"});
  node("normalizer", {{"type", "Replace"}, {"pattern", " "}, {"content", " "}}, {"pattern", "expected an object"});
  node("normalizer", {{"type", "Sequence"}}, {"`normalizers`"});
  node("normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFD"}}}}}, {"normalizers[0]", "'NFD'"});
  node("pre_tokenizer", {{"type", "Whitespace"}}, {"'Whitespace'", "ByteLevel"});
  node("pre_tokenizer", {{"type", "BertPreTokenizer"}}, {"'BertPreTokenizer'"});
  node("pre_tokenizer", {{"type", "ByteLevel"}}, {"`add_prefix_space`"});
  node("pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", 0}}, {"add_prefix_space", "true or false"});
  node("pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Isolated"}, {"invert", false}},
       {"regular expression", "GPT-2"});
  node("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Deleted"}, {"invert", false}},
       {"behavior", "\"Deleted\""});
  node("pre_tokenizer", {{"type", "Split"}, {"behavior", "Isolated"}}, {"`pattern`"});
  node("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "__"}}, {"replacement", "one character"});
  node("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
       {"prepend_scheme", "\"last\""});
  node("pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {{{"type", "ByteLevel"}, {"add_prefix_space", false}}, {{"type", "Digits"}}}}},
       {"pretokenizers[1]", "behind a ByteLevel"});
  node("post_processor", {{"type", "BertProcessing"}, {"sep", {"x", 1}}, {"cls", {"y", 2}}},
       {"'BertProcessing'", "TemplateProcessing"});
  node("post_processor", {{"type", "TemplateProcessing"}}, {"`single`"});
  node("post_processor", {{"type", "TemplateProcessing"}, {"single", json::array()}}, {"single", "Sequence"});
  const json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             token = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};
  node("post_processor", {{"type", "TemplateProcessing"}, {"single", {token, sequence}}}, {"`special_tokens`"});
  node("post_processor",
       {{"type", "TemplateProcessing"}, {"single", {token, sequence}}, {"special_tokens", json::object()}},
       {"special_tokens", "<|end|>"});
  node("post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {token, sequence}},
        {"special_tokens", {{"<|end|>", {{"ids", {99}}}}}}},
       {"id 99", "no token"});
  node("post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {token, sequence}},
        {"special_tokens", {{"<|end|>", {{"ids", {"5"}}}}}}},
       {"ids[0]", "\"5\""});
  node("post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {token, token, sequence}},
        {"special_tokens", {{"<|end|>", {{"ids", {5}}}}}}},
       {"2 tokens before a text"});
  node("decoder", nullptr, {"is null"});
  node("decoder", {{"type", "WordPiece"}}, {"'WordPiece'", "ByteLevel"});
  node("decoder", {{"type", "Strip"}, {"content", "  "}, {"start", 1}, {"stop", 0}}, {"content", "one character"});
  node("decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}, {"start", "-1"});
}

void add_added_tokens(std::vector<BadFile>& files) {
  files.push_back(with("/added_tokens", json::object(), {"expected a list"}));
  files.push_back(with("/added_tokens/0", "<|end|>", {"added_tokens[0]", "expected an object"}));
  files.push_back(without("/added_tokens/0", "content", {"added_tokens[0]"}));
  files.push_back(without("/added_tokens/0", "id", {"added_tokens[0]"}));
  files.push_back(with("/added_tokens/0/content", "", {"added_tokens[0]", "is empty"}));
  files.push_back(with("/added_tokens/0/content", 3, {"added_tokens[0]", "a string"}));
  files.push_back(with("/added_tokens/0/id", "5", {"added_tokens[0]", "\"5\""}));
  files.push_back(with("/added_tokens/0/id", -5, {"added_tokens[0]", "-5"}));
  files.push_back(with("/added_tokens/0/id", 9, {"added_tokens[0]", "is 9", "next after the vocabulary: 5"}));
  files.push_back(with("/added_tokens/0/id", 2'147'483'647, {"added_tokens[0]", "2147483647"}));
  files.push_back(with("/added_tokens/0/special", "yes", {"added_tokens[0]", "true or false"}));
  files.push_back(with("/added_tokens/0/lstrip", 1, {"added_tokens[0]", "true or false"}));
  files.push_back(changed("added_token_twice",
                          [](json& file) { file["added_tokens"].push_back(file["added_tokens"][0]); },
                          {"added_tokens[1]", "<|end|>"}));
  files.push_back(changed("added_token_of_the_vocabulary",
                          [](json& file) {
                            file["added_tokens"].push_back({{"id", 6}, {"content", "ab"}});
                          },
                          {"added_tokens[1]", "\"ab\"", "stands in the vocabulary as 3"}));
}

}  // namespace

json good_tokenizer_json() {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 5},
             {"content", "<|end|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab",
             {{"a", 0},
              {"b", 1},
              {"\xC4\xA0", 2},
              {"ab", 3},
              {"\xC4\xA0"
               "a",
               4}}},
            {"merges", {"a b", "\xC4\xA0 a"}}}}};
}

json good_tokenizer_config() {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|end|>"}, {"bos_token", nullptr}};
}

std::vector<BadFile> bad_tokenizer_jsons() {
  std::vector<BadFile> files = broken_json(kFile, good_tokenizer_json().dump(), Json::kStrict);
  add_models(files);
  add_nodes(files);
  add_added_tokens(files);
  return files;
}

std::vector<BadFile> bad_tokenizer_configs() {
  std::vector<BadFile> files = broken_json(kConfig, good_tokenizer_config().dump(), Json::kOfPython);
  const auto with_eos = [&](const std::string& name, const json& value, std::vector<std::string> says) {
    json config = good_tokenizer_config();
    config["eos_token"] = value;
    says.emplace_back("eos_token");
    files.push_back({"eos_" + name, kConfig, config.dump(), std::move(says)});
  };
  with_eos("number", 2, {"is 2"});
  with_eos("list", json::array({"<|end|>"}), {"<|end|>"});
  with_eos("object_without_content", {{"special", true}}, {"content"});
  with_eos("content_number", {{"content", 2}}, {"is 2"});
  return files;
}

}  // namespace moe::testing
