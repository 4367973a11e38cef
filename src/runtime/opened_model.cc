#include "runtime/opened_model.h"

#include <utility>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {
namespace {

constexpr char kTemplateKey[] = "chat_template_name";

std::shared_ptr<const Tokenizer> tokenizer_of(const std::filesystem::path& path, TextNeeds::TokenizerFile need) {
  if (need == TextNeeds::TokenizerFile::kUnread) return nullptr;
  if (need == TextNeeds::TokenizerFile::kIfThere && !Tokenizer::file_in(path)) return nullptr;
  return Tokenizer::from_directory(path);
}

ChatTemplateChoice chat_template_of(const ModelDirectory& directory, const std::string& given) {
  if (!given.empty()) return {given};
  const nlohmann::json& config = directory.config().source;
  if (!config.contains(kTemplateKey)) return choose_chat_template(directory.path());
  if (!config[kTemplateKey].is_string()) {
    throw InvalidArgument(concat((directory.path() / "config.json").string(), ": ", kTemplateKey, " is ",
                                 config[kTemplateKey].type_name(), "; expected a string"));
  }
  return {config[kTemplateKey]};
}

}  // namespace

TextNeeds text_of_job(const std::string& chat_template) {
  return {.tokenizer = TextNeeds::TokenizerFile::kIfThere, .chat_template = chat_template};
}

OpenedModel open_model(const std::filesystem::path& path, const TextNeeds& needs) {
  OpenedModel model{ModelDirectory(path), {}};
  model.text.tokenizer = tokenizer_of(path, needs.tokenizer);
  if (needs.chat_template) model.text.chat_template = chat_template_of(model.directory, *needs.chat_template);
  return model;
}

OpenedModel open_model(const std::filesystem::path& path, const TextNeeds& needs, Communicator& world) {
  std::optional<OpenedModel> model;
  agree(world, "open " + path.string(), [&] { model.emplace(open_model(path, needs)); });
  return *std::move(model);
}

}  // namespace moe
