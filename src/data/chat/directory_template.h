#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

/// Which chat template a model directory was made for. Its Jinja text is recognised, not run: by its canonical form
/// (canonical_jinja.h), which is compared with those of our own texts and with digests of published ones.
namespace moe {

/// The chat template that a directory brings along.
struct DirectoryTemplate {
  std::string jinja;
  std::string where;  ///< file, and key in it, for messages
};

/// chat_template.jinja, else `chat_template` of tokenizer_config.json: a text, or of a list of {name, template} the one
/// named "default" or the only one. Nothing if there is none. Throws InvalidArgument that names the file if it cannot
/// be understood.
std::optional<DirectoryTemplate> read_directory_template(const std::filesystem::path& directory);

/// Name in chat_templates() of the template that renders as this text does, or nothing.
std::optional<std::string> recognise_chat_template(std::string_view jinja);

/// A name of chat_templates(), or why there is none. A job without chats needs none, so the reason becomes an error
/// only when a chat is read.
struct ChatTemplateChoice {
  std::string name;
  std::string problem{};
};

/// What the directory's own template is: recognised, or the problem; plain_markers if it has none.
ChatTemplateChoice choose_chat_template(const std::filesystem::path& directory);

/// The Jinja text that has to go with a model trained in the template `name` from `directory`: empty if what the
/// directory has is that, or is not recognised (then a user said that it equals `name`).
std::string chat_template_to_write(const std::filesystem::path& directory, std::string_view name,
                                   bool tokenizer_adds_bos);

}  // namespace moe
