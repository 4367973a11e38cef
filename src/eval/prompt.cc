#include "eval/prompt.h"

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/python_json.h"
#include "data/chat/chat_encoding.h"
#include "data/chat/chat_templates.h"
#include "model/json_fields.h"

namespace moe {
namespace {

std::set<int32_t> stop_ids(const ModelDirectory& directory, const Tokenizer& tokenizer) {
  std::vector<int64_t> ids = directory.config().eos_token_ids;
  if (const std::filesystem::path file = directory.path() / "generation_config.json"; is_there(file)) {
    const nlohmann::json values = parse_python_json(read_file(file), file.string());
    const std::vector<int64_t> more = JsonFields(values, file.string()).token_ids("eos_token_id");
    ids.insert(ids.end(), more.begin(), more.end());
  }
  std::set<int32_t> stops;
  for (const int64_t id : ids) {
    if (id >= 0 && id <= INT32_MAX) stops.insert(static_cast<int32_t>(id));
  }
  if (tokenizer.eos_id()) stops.insert(*tokenizer.eos_id());
  return stops;
}

}  // namespace

Prompt text_prompt(const std::string& text, SpecialTokens specials, const OpenedModel& model) {
  const Tokenizer& tokenizer = *model.text.tokenizer;
  Prompt prompt{{}, stop_ids(model.directory, tokenizer)};
  if (tokenizer.bos_id()) prompt.ids.push_back(*tokenizer.bos_id());
  const Encoding encoded = tokenizer.encode(text, specials);
  prompt.ids.insert(prompt.ids.end(), encoded.ids.begin(), encoded.ids.end());
  return prompt;
}

Prompt chat_prompt(const std::string& text, const std::vector<std::string>& system, const OpenedModel& model) {
  const Tokenizer& tokenizer = *model.text.tokenizer;
  const ChatTemplateChoice& choice = model.text.chat_template;
  if (choice.name.empty()) throw InvalidArgument(choice.problem + " (--template NAME of this command)");
  const ChatTemplate& form = chat_templates().at(choice.name);
  std::vector<ChatMessage> messages;
  if (!system.empty()) {
    std::string lines;
    for (const std::string& line : system) lines += (lines.empty() ? "" : "\n") + line;
    messages.push_back({"system", lines});
  }
  messages.push_back({"user", text});
  Prompt prompt{encode_chat_prompt(form, messages, tokenizer), stop_ids(model.directory, tokenizer)};
  if (!form.end_marker.empty()) {
    if (const auto marker = tokenizer.token_to_id(form.end_marker)) prompt.stops.insert(*marker);
  }
  return prompt;
}

}  // namespace moe
