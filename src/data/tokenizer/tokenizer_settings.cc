#include "data/tokenizer/tokenizer_settings.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_text.h"
#include "common/python_json.h"
#include "data/tokenizer/json_node.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int64_t kLargestId = std::numeric_limits<int32_t>::max() - 1;
/// SPECIAL_TOKENS_ATTRIBUTES of transformers, in its order, without the list.
constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};

/// A file of the directory, or an empty object.
struct Document {
  explicit Document(const std::filesystem::path& path) : where(path.string()), is_there(moe::is_there(path)) {
    if (is_there) value = parse_python_json(read_file(path), where);
    root().expect_object();
  }
  JsonNode root() const { return {value, "", where}; }

  std::string where;
  bool is_there;
  json value = json::object();
};

void read_flags(const JsonNode& node, AddedToken& token) {
  token.single_word = node.boolean("single_word", false);
  token.lstrip = node.boolean("lstrip", false);
  token.rstrip = node.boolean("rstrip", false);
  token.special = node.boolean("special", token.special);
  token.normalized = node.boolean("normalized", !token.special);
}

/// A token with a role: its text or an object.
AddedToken read_special(const JsonNode& node) {
  AddedToken token;
  if (!node.value().is_object()) {
    token.content = node.text();
  } else {
    token.content = node.at("content").text();
    read_flags(node, token);
  }
  token.special = true;
  return token;
}

bool holds(const std::vector<AddedToken>& tokens, const std::string& content) {
  return std::any_of(tokens.begin(), tokens.end(),
                     [&content](const AddedToken& token) { return token.content == content; });
}

void add_special(const AddedToken& token, TokenizerSettings& settings) {
  if (!token.content.empty() && !holds(settings.special, token.content)) settings.special.push_back(token);
}

/// Lists of further special tokens: `additional_special_tokens`, and what transformers 5 writes in its place.
void add_lists(const Document& document, TokenizerSettings& settings) {
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto list = document.root().find(key);
    if (!list) continue;
    if (list->value().is_object()) {
      for (const auto& [name, value] : list->value().items())
        add_special(read_special(list->at(name.c_str())), settings);
      continue;
    }
    list->expect_array();
    for (size_t i = 0; i < list->size(); ++i) add_special(read_special(list->at(i)), settings);
  }
}

std::optional<AddedToken> read_role(const char* key, const Document& first, const Document& second) {
  for (const Document* document : {&first, &second}) {
    if (!document->value.contains(key)) continue;
    const auto node = document->root().find(key);
    return node ? read_special(*node) : AddedToken{};
  }
  return std::nullopt;
}

int32_t id_of_key(const std::string& key, const JsonNode& node) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > kLargestId) {
    node.fail_at(concat("[", quoted_json(json(key)), "]"),
                 concat("is no id; expected an integer from 0 to ", kLargestId));
  }
  return static_cast<int32_t>(id);
}

void read_decoder(const JsonNode& decoder, TokenizerSettings& settings) {
  decoder.expect_object();
  for (const auto& [key, value] : decoder.value().items()) {
    const JsonNode node = decoder.at(key.c_str());
    AddedToken token;
    token.id = id_of_key(key, decoder);
    token.content = node.at("content").text();
    read_flags(node, token);
    settings.added.push_back(std::move(token));
  }
}

void read_added_tokens(const Document& document, TokenizerSettings& settings) {
  for (const auto& [content, value] : document.value.items()) {
    AddedToken token;
    token.id = static_cast<int32_t>(document.root().at(content.c_str()).integer(kLargestId));
    token.content = content;
    token.special = holds(settings.special, content);
    token.normalized = !token.special;
    settings.added.push_back(std::move(token));
  }
}

/// In the order of ids; each text and each id once. The libraries pass over empty ones.
void check_added(const std::string& where, std::vector<AddedToken>& added) {
  std::erase_if(added, [](const AddedToken& token) { return token.content.empty(); });
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < added.size(); ++i) {
    const auto [other, is_new] = ids.emplace(added[i].content, added[i].id);
    const std::string quoted = quoted_json(json(added[i].content));
    if (!is_new)
      throw Corruption(
          concat(where, ": the added token ", quoted, " has the ids ", other->second, " and ", added[i].id));
    if (i > 0 && added[i].id == added[i - 1].id) {
      throw Corruption(concat(where, ": the added tokens ", quoted_json(json(added[i - 1].content)), " and ", quoted,
                              " have the same id ", added[i].id));
    }
  }
}

std::optional<bool> flag(const Document& config, const char* key) {
  const auto node = config.root().find(key);
  return node ? std::optional(node->boolean()) : std::nullopt;
}

}  // namespace

TokenizerSettings TokenizerSettings::read(const std::filesystem::path& directory) {
  const Document config(directory / "tokenizer_config.json"), map(directory / "special_tokens_map.json"),
      added(directory / "added_tokens.json");
  TokenizerSettings settings;
  settings.has_files = config.is_there || map.is_there || added.is_there;
  const std::optional<JsonNode> decoder = config.root().find("added_tokens_decoder");
  for (const char* role : kRoles) {
    const std::optional<AddedToken> token = read_role(role, decoder ? config : map, config);
    if (!token) continue;
    add_special(*token, settings);
    const std::string name = role;
    if (name == "bos_token") settings.bos = token;
    if (name == "eos_token") settings.eos = token;
    if (name == "unk_token") settings.unknown = token;
  }
  add_lists(config, settings);
  if (!decoder) add_lists(map, settings);
  if (decoder) {
    read_decoder(*decoder, settings);
  } else {
    read_added_tokens(added, settings);
  }
  check_added(decoder ? config.where : added.where, settings.added);
  settings.adds_bos = flag(config, "add_bos_token");
  settings.adds_eos = flag(config, "add_eos_token");
  settings.is_legacy = flag(config, "legacy");
  settings.adds_prefix_space = flag(config, "add_prefix_space").value_or(true);
  if (const auto name = config.root().find("tokenizer_class")) settings.tokenizer_class = name->text();
  return settings;
}

std::string TokenizerSettings::describe(const std::vector<AddedToken>& tokens) {
  std::string text;
  for (const AddedToken& token : tokens) {
    text += concat("\n", token.id, " ", token.single_word, token.lstrip, token.rstrip, token.normalized, token.special,
                   " ", token.content);
  }
  return text;
}

}  // namespace moe
