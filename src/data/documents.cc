#include "data/documents.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/json_text.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr size_t kMaxProblems = 5;
constexpr const char* kKinds[] = {"text", "messages", "instruction", "ids"};

/// Stops at the first chat: the reason is not that line's.
class NoChatTemplate : public InvalidArgument {
 public:
  using InvalidArgument::InvalidArgument;
};

/// Which of the kinds a line is; throws with what is wrong.
std::string kind_of(const json& line) {
  if (!line.is_object()) throw InvalidArgument("expected a JSON object");
  std::string kind;
  for (const char* name : kKinds) {
    if (!line.contains(name)) continue;
    if (!kind.empty()) throw InvalidArgument(concat("has `", kind, "` and `", name, "`; expected one of them"));
    kind = name;
  }
  if (kind.empty()) throw InvalidArgument("has none of `text`, `messages`, `instruction` and `ids`");
  return kind;
}

Document text_document(const json& line, const Tokenizer& tokenizer, bool append_eos) {
  if (!line["text"].is_string())
    throw InvalidArgument(concat("`text` is ", line["text"].type_name(), "; expected a string"));
  Document document;
  if (tokenizer.bos_id()) document.ids.push_back(*tokenizer.bos_id());
  const Encoding encoding = tokenizer.encode(line["text"].get_ref<const std::string&>());
  document.ids.insert(document.ids.end(), encoding.ids.begin(), encoding.ids.end());
  if (append_eos && tokenizer.eos_id()) document.ids.push_back(*tokenizer.eos_id());
  document.supervised.assign(document.ids.size(), 1);
  return document;
}

/// A string, or the text of a list of {"type": "text", "text"} parts.
std::string content_of(const json& message, const std::string& where) {
  if (!message.contains("content")) throw InvalidArgument(where + " has no `content`");
  const json& content = message["content"];
  if (content.is_string()) return content;
  if (!content.is_array())
    throw InvalidArgument(concat(where, ".content is ", content.type_name(), "; expected a string"));
  std::string text;
  for (const json& part : content) {
    if (!part.is_object() || part.value("type", json()) != "text" || !part.contains("text") ||
        !part["text"].is_string()) {
      throw InvalidArgument(where + R"(.content has a part that is not {"type": "text", "text": "..."})");
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

std::vector<ChatMessage> messages_of(const json& line) {
  const json& messages = line["messages"];
  if (!messages.is_array() || messages.empty())
    throw InvalidArgument("`messages` is not a list with at least one message");
  std::vector<ChatMessage> chat;
  bool has_assistant = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const json& message = messages[i];
    const std::string where = concat("messages[", i, "]");
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      throw InvalidArgument(where + " has no string `role`");
    }
    const std::string role = message["role"];
    if (role != "system" && role != "user" && role != "assistant") {
      throw InvalidArgument(concat(where, " has the role '", role, "'; expected system, user or assistant"));
    }
    has_assistant = has_assistant || role == "assistant";
    chat.push_back({role, content_of(message, where)});
  }
  if (!has_assistant) throw InvalidArgument("`messages` has no assistant turn, so nothing to learn from");
  return chat;
}

/// One question and its answer: {"instruction", "output"} and perhaps {"input"}.
std::vector<ChatMessage> instruction_messages(const json& line, bool has_place_for_input) {
  const auto text_of = [&line](const char* key) -> std::string {
    if (!line.contains(key)) return "";
    if (!line[key].is_string())
      throw InvalidArgument(concat("`", key, "` is ", line[key].type_name(), "; expected a string"));
    return line[key];
  };
  if (!line.contains("output")) throw InvalidArgument("has `instruction` and no `output`");
  ChatMessage question{"user", text_of("instruction"), text_of("input")};
  if (!has_place_for_input && !question.input.empty()) {
    question.content += "\n" + question.input;
    question.input.clear();
  }
  return {std::move(question), {"assistant", text_of("output")}};
}

Document chat_document(const json& line, bool is_instruction, const Tokenizer& tokenizer,
                       const ChatTemplate& chat_template, const ChatEncodingOptions& options) {
  EncodedChat chat = encode_chat(
      chat_template, is_instruction ? instruction_messages(line, chat_template.has_place_for_input) : messages_of(line),
      tokenizer, options);
  Document document;
  document.ids = std::move(chat.ids);
  document.supervised = std::move(chat.supervised);
  document.is_chat = true;
  return document;
}

Document ids_document(const json& line, int64_t vocab_size) {
  const json& ids = line["ids"];
  if (!ids.is_array()) throw InvalidArgument(concat("`ids` is ", ids.type_name(), "; expected a list of integers"));
  Document document;
  for (const json& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      throw InvalidArgument(concat("`ids` holds ", quoted_json(id), "; expected integers from 0 to ", vocab_size - 1));
    }
    document.ids.push_back(id.get<int32_t>());
  }
  document.supervised.assign(document.ids.size(), 1);
  return document;
}

/// Calls `visit(line number, parsed line)`; what it throws becomes a problem of that line.
template <typename Visit>
void for_each_line(const std::string& path, int64_t max_lines, const Visit& visit) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw InvalidArgument(path + ": a folder; expected a JSONL file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw InvalidArgument(concat("cannot read ", path, ": ", std::strerror(errno)));
  std::string problems;
  size_t problem_count = 0;
  int64_t number = 0;
  std::string text;
  while ((max_lines == 0 || number < max_lines) && std::getline(file, text)) {
    ++number;
    try {
      if (text.find_first_not_of(" \t\r") == std::string::npos) throw InvalidArgument("the line is empty");
      json line;
      try {
        line = json::parse(text);
      } catch (const json::exception& error) {
        throw InvalidArgument(concat("not valid JSON: ", error.what()));
      }
      visit(line);
    } catch (const NoChatTemplate&) {
      throw;
    } catch (const InvalidArgument& error) {
      if (++problem_count <= kMaxProblems)
        problems += concat(problems.empty() ? "" : "\n", path, ":", number, ": ", error.what());
    }
  }
  if (file.bad())
    throw InvalidArgument(concat("cannot read ", path, " beyond line ", number, ": ", std::strerror(errno)));
  if (number == 0) throw InvalidArgument(path + ": the file is empty; expected one JSON object a line");
  if (problem_count > kMaxProblems)
    problems += concat("\n", path, ": and ", problem_count - kMaxProblems, " more bad lines");
  if (!problems.empty()) throw InvalidArgument(problems);
}

}  // namespace

void for_each_document(const std::string& path, const Tokenizer* tokenizer, const DocumentOptions& options,
                       const std::function<void(const Document&)>& visit) {
  const std::string& name = options.chat_template.name;
  const ChatTemplate* chat_template = name.empty() ? nullptr : &chat_templates().at(name);
  std::string kind;
  for_each_line(path, options.max_documents, [&](const json& line) {
    const std::string this_kind = kind_of(line);
    if (kind.empty()) kind = this_kind;
    if (this_kind != kind)
      throw InvalidArgument(
          concat("has `", this_kind, "` where the lines before have `", kind, "`; one kind per file"));
    if (kind != "ids" && tokenizer == nullptr)
      throw InvalidArgument(concat("`", kind, "` needs a tokenizer, and the model has none"));
    const bool is_chat = kind == "messages" || kind == "instruction";
    if (is_chat && chat_template == nullptr)
      throw NoChatTemplate(concat(path, " has chats, and ", options.chat_template.problem));
    Document document = kind == "text" ? text_document(line, *tokenizer, options.append_eos)
                        : is_chat ? chat_document(line, kind == "instruction", *tokenizer, *chat_template, options.chat)
                                  : ids_document(line, options.vocab_size);
    if (line.contains("domain")) {
      if (!line["domain"].is_string()) throw InvalidArgument("`domain` is not a string");
      document.domain = line["domain"];
    }
    visit(document);
  });
}

std::vector<Document> read_documents(const std::string& path, const Tokenizer* tokenizer,
                                     const DocumentOptions& options) {
  std::vector<Document> documents;
  for_each_document(path, tokenizer, options,
                    [&documents](const Document& document) { documents.push_back(document); });
  return documents;
}

std::vector<std::vector<int32_t>> read_text_documents(const std::string& path, const Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> all;
  for_each_line(path, 0, [&](const json& line) {
    if (kind_of(line) != "text") throw InvalidArgument("has no `text`");
    all.push_back(text_document(line, tokenizer, /*append_eos=*/false).ids);
  });
  return all;
}

std::vector<std::vector<int32_t>> read_id_documents(const std::string& path, int64_t vocab_size) {
  std::vector<std::vector<int32_t>> all;
  for_each_line(path, 0, [&](const json& line) {
    if (kind_of(line) != "ids") throw InvalidArgument("has no `ids`");
    all.push_back(ids_document(line, vocab_size).ids);
  });
  return all;
}

}  // namespace moe
