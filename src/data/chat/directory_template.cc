#include "data/chat/directory_template.h"

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "common/python_json.h"
#include "data/chat/canonical_jinja.h"
#include "data/chat/chat_templates.h"
#include "data/chat/jinja_texts.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "tokenizer_config.json";

/// XXH3-128 of the canonical forms of published texts that are long because of tool calls, which we do not render.
constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kPublished{{
    {"94ea248e114791e5a79c5e6d9ea53a32", "llama3.1"},  // meta-llama/Llama-3.1-8B-Instruct
    {"353eb88a884b5ad5d483771b806352f2", "qwen2.5"},   // Qwen/Qwen2.5-7B-Instruct
}};

/// Spellings beside those of chat_templates() that render the same. Name and text.
std::vector<std::pair<std::string, std::string>> other_spellings() {
  std::vector<std::pair<std::string, std::string>> all;
  // ChatML as OpenHermes and many fine-tunes have it.
  all.emplace_back("chatml",
                   "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" +
                       chat::jinja_chatml(""));
  // As written beside models whose tokenizer adds no BOS.
  for (const std::string& name : chat_templates().names()) all.emplace_back(name, chat_template_jinja(name, false));
  return all;
}

const std::map<std::string, std::string>& known_forms() {
  static const std::map<std::string, std::string> forms = [] {
    std::map<std::string, std::string> all;
    const auto add = [&all](const std::string& name, const std::string& text) {
      const auto form = chat::canonical_jinja(text);
      MOE_CHECK(form.has_value(), "chat template ", name);
      all.emplace(xxh3_hex(std::string_view(*form)), name);
    };
    for (const std::string& name : chat_templates().names()) add(name, chat_templates().at(name).jinja);
    for (const auto& [name, text] : other_spellings()) add(name, text);
    for (const auto& [digest, name] : kPublished) all.emplace(digest, name);
    return all;
  }();
  return forms;
}

std::optional<std::string> from_list(const json& list, const std::string& where) {
  std::optional<std::string> found;
  for (const json& entry : list) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("template") ||
        !entry["template"].is_string()) {
      throw InvalidArgument(where + R"(: an entry is not {"name": "...", "template": "..."})");
    }
    if (list.size() == 1 || entry["name"] == "default") found = entry["template"].get<std::string>();
  }
  return found;
}

}  // namespace

std::optional<DirectoryTemplate> read_directory_template(const std::filesystem::path& directory) {
  const std::filesystem::path own = directory / "chat_template.jinja", config = directory / kConfigFile;
  if (is_there(own)) return DirectoryTemplate{read_file(own), own.string()};
  if (!is_there(config)) return std::nullopt;
  const json values = parse_python_json(read_file(config), config.string());
  const std::string where = config.string() + ": chat_template";
  if (!values.is_object()) throw InvalidArgument(config.string() + ": not a JSON object");
  if (!values.contains("chat_template") || values["chat_template"].is_null()) return std::nullopt;
  const json& value = values["chat_template"];
  if (value.is_string()) return DirectoryTemplate{value, where};
  if (!value.is_array()) {
    throw InvalidArgument(concat(where, " is ", value.type_name(), "; expected a text or a list of {name, template}"));
  }
  const std::optional<std::string> text = from_list(value, where);
  if (!text) return DirectoryTemplate{"", where + R"( (none of its entries is named "default"))"};
  return DirectoryTemplate{*text, where};
}

std::optional<std::string> recognise_chat_template(std::string_view jinja) {
  const auto form = chat::canonical_jinja(jinja);
  if (!form) return std::nullopt;
  const auto known = known_forms().find(xxh3_hex(std::string_view(*form)));
  if (known == known_forms().end()) return std::nullopt;
  return known->second;
}

ChatTemplateChoice choose_chat_template(const std::filesystem::path& directory) {
  const std::optional<DirectoryTemplate> own = read_directory_template(directory);
  if (!own) return {std::string(kDefaultChatTemplate)};
  if (const auto name = recognise_chat_template(own->jinja)) return {*name};
  return {"", concat(own->where,
                     " is none of the chat templates known here; set `template:` in the job to the one it equals: ",
                     chat_templates().known())};
}

std::string chat_template_to_write(const std::filesystem::path& directory, std::string_view name,
                                   bool tokenizer_adds_bos) {
  const std::optional<DirectoryTemplate> own = read_directory_template(directory);
  if (!own) return chat_template_jinja(name, tokenizer_adds_bos);
  const std::optional<std::string> known = recognise_chat_template(own->jinja);
  return !known || *known == name ? "" : chat_template_jinja(name, tokenizer_adds_bos);
}

}  // namespace moe
