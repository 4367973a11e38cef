#include "data/documents.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "common/json_text.h"
#include "common/log.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr size_t kMaxProblems = 5;
/// Of one line's problem: five of them are still a message that one reads.
constexpr size_t kMaxProblem = 400;
constexpr size_t kMaxDomain = 200;
constexpr const char* kKinds[] = {"text", "messages", "instruction", "ids"};

/// Stops at the first chat: the reason is not that line's.
class NoChatTemplate : public InvalidArgument {
 public:
  using InvalidArgument::InvalidArgument;
};

/// Whether the field is there. Tables that hold rows of several kinds fill columns with null.
bool has(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

/// Which of the kinds a line is; throws with what is wrong.
std::string kind_of(const json& line) {
  if (!line.is_object()) throw InvalidArgument("expected a JSON object");
  const bool is_rendered = has(line, "instruction") && has(line, "output");
  std::string kind;
  for (const char* name : kKinds) {
    if (!has(line, name)) continue;
    // Published instruction data have the prompt and the answer in one text beside them, as one template puts them.
    if (is_rendered && std::string_view(name) == "text") continue;
    if (!kind.empty()) throw InvalidArgument(concat("has `", kind, "` and `", name, "`; expected one of them"));
    kind = name;
  }
  if (kind.empty()) throw InvalidArgument("has none of `text`, `messages`, `instruction` and `ids`");
  return kind;
}

/// Special tokens that texts spelled and that stayed text.
class KeptAsText {
 public:
  void add(const std::vector<int32_t>& ids) {
    lines_ += ids.empty() ? 0 : 1;
    for (const int32_t id : ids) ++counts_[id];
  }

  /// One line for the file.
  void warn(const std::string& path, const Tokenizer& tokenizer) const {
    if (counts_.empty()) return;
    std::vector<std::pair<int64_t, int32_t>> by_count;
    int64_t total = 0;
    for (const auto& [id, count] : counts_) {
      by_count.emplace_back(-count, id);
      total += count;
    }
    std::sort(by_count.begin(), by_count.end());
    constexpr size_t kMostNamed = 5;
    std::string tokens;
    for (size_t i = 0; i < std::min(by_count.size(), kMostNamed); ++i) {
      tokens += concat(i == 0 ? "" : ",", quoted_json(json(tokenizer.id_to_token(by_count[i].second))), ":",
                       -by_count[i].first);
    }
    if (by_count.size() > kMostNamed) tokens += concat(",and_", by_count.size() - kMostNamed, "_more");
    log_shared_warning(concat(
        "event=special_tokens_stay_text file=", path, " lines=", lines_, " count=", total, " tokens=", tokens,
        " reason=\"they are spelled in texts, where they are letters; if these are rendered chats, special_tokens: "
        "parse of the data source (score: --parse-special-tokens) makes them tokens\""));
  }

 private:
  std::map<int32_t, int64_t> counts_;
  int64_t lines_ = 0;
};

/// An id that the embedding has no row for: a token that was added to the tokenizer alone, or a tokenizer of another
/// model.
void check_ids(const std::vector<int32_t>& ids, const Tokenizer& tokenizer, int64_t vocab_size) {
  if (vocab_size == 0) return;
  for (const int32_t id : ids) {
    if (id < vocab_size) continue;
    throw InvalidArgument(
        concat("the token ", quoted_json(json(tokenizer.id_to_token(id))), " has the id ", id, ", and the model has ",
               vocab_size, " (`vocab_size` of config.json): the tokenizer has tokens that the model was not given"));
  }
}

Document text_document(const json& line, const Tokenizer& tokenizer, const DocumentOptions& options, KeptAsText& kept) {
  if (!line["text"].is_string())
    throw InvalidArgument(concat("`text` is ", line["text"].type_name(), "; expected a string"));
  Document document;
  if (tokenizer.bos_id()) document.ids.push_back(*tokenizer.bos_id());
  const Encoding encoding = tokenizer.encode(line["text"].get_ref<const std::string&>(), options.special_tokens);
  kept.add(encoding.kept_as_text);
  document.ids.insert(document.ids.end(), encoding.ids.begin(), encoding.ids.end());
  if (tokenizer.suffix_id()) {
    document.ids.push_back(*tokenizer.suffix_id());
  } else if (options.append_eos && tokenizer.eos_id()) {
    document.ids.push_back(*tokenizer.eos_id());
  }
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

/// Whether an answer is learned: "weight" is 1, which is the default, or 0, as other trainers have it.
bool is_learned(const json& message, const std::string& where) {
  if (!has(message, "weight")) return true;
  const json& weight = message["weight"];
  if (!weight.is_number() || (weight != 0 && weight != 1)) {
    throw InvalidArgument(
        concat(where, ".weight is ", quoted_json(weight), "; expected 0 (context only) or 1 (learned)"));
  }
  return weight == 1;
}

/// No template of ours prints calls: what is left would teach an answer that nobody gave.
void refuse_tool_calls(const json& message, const std::string& where) {
  for (const char* key : {"tool_calls", "function_call"}) {
    if (has(message, key) && !message[key].empty()) {
      throw InvalidArgument(concat(where, " has `", key,
                                   "`, which cannot be learned; leave the line out, or write the call into `content`"));
    }
  }
}

std::vector<ChatMessage> messages_of(const json& line) {
  const json& messages = line["messages"];
  if (!messages.is_array() || messages.empty())
    throw InvalidArgument("`messages` is not a list with at least one message");
  std::vector<ChatMessage> chat;
  bool has_assistant = false, has_learned = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const json& message = messages[i];
    const std::string where = concat("messages[", i, "]");
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      throw InvalidArgument(where + " has no string `role`");
    }
    const std::string role = message["role"];
    if (role != "system" && role != "user" && role != "assistant") {
      throw InvalidArgument(concat(where, " has the role '", excerpt(role), "'; expected system, user or assistant"));
    }
    refuse_tool_calls(message, where);
    const bool learned = is_learned(message, where);
    has_assistant = has_assistant || role == "assistant";
    has_learned = has_learned || (role == "assistant" && learned);
    chat.push_back({.role = role, .content = content_of(message, where), .is_learned = learned});
  }
  if (!has_assistant) throw InvalidArgument("`messages` has no assistant turn, so nothing to learn from");
  if (!has_learned)
    throw InvalidArgument("`messages` has no assistant turn but those of `weight` 0, so nothing to learn from");
  return chat;
}

/// One question and its answer: {"instruction", "output"} and perhaps {"input"}.
std::vector<ChatMessage> instruction_messages(const json& line, bool has_place_for_input) {
  const auto text_of = [&line](const char* key) -> std::string {
    if (!has(line, key)) return "";
    if (!line[key].is_string())
      throw InvalidArgument(concat("`", key, "` is ", line[key].type_name(), "; expected a string"));
    return line[key];
  };
  if (!has(line, "output")) throw InvalidArgument("has `instruction` and no `output`");
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

/// Calls `visit(line number, parsed line)` for every line that is not blank, the first `most` of them if that is not 0;
/// what it throws becomes a problem of that line.
template <typename Visit>
void for_each_line(const std::string& path, int64_t most, const Visit& visit) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw InvalidArgument(path + ": a folder; expected a JSONL file");
  if (is_there(path)) refuse_lfs_pointer(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw InvalidArgument(concat("cannot read ", path, ": ", std::strerror(errno)));
  std::string problems;
  size_t problem_count = 0;
  int64_t number = 0, visited = 0;
  std::string text;
  while ((most == 0 || visited < most) && std::getline(file, text)) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    ++visited;
    try {
      visit(number, parse_json_line(text));
    } catch (const NoChatTemplate&) {
      throw;
    } catch (const InvalidArgument& error) {
      if (++problem_count <= kMaxProblems)
        problems += concat(problems.empty() ? "" : "\n", path, ":", number, ": ", printable(error.what(), kMaxProblem));
    }
  }
  if (file.bad())
    throw InvalidArgument(concat("cannot read ", path, " beyond line ", number, ": ", std::strerror(errno)));
  if (number == 0) throw InvalidArgument(path + ": the file is empty; expected one JSON object a line");
  if (visited == 0) throw InvalidArgument(path + ": the file has blank lines only; expected one JSON object a line");
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
  KeptAsText kept;
  for_each_line(path, options.max_documents, [&](int64_t, const json& line) {
    const std::string this_kind = kind_of(line);
    if (kind.empty()) kind = this_kind;
    if (this_kind != kind)
      throw InvalidArgument(
          concat("has `", this_kind, "` where the lines before have `", kind, "`; one kind per file"));
    if (kind != "ids" && tokenizer == nullptr)
      throw InvalidArgument(concat("`", kind, "` needs a tokenizer, and the model has none"));
    const bool is_chat = kind == "messages" || kind == "instruction";
    if (kind != "text" && options.special_tokens == SpecialTokens::kParse)
      throw InvalidArgument(concat("has `", kind, "`, and special_tokens: parse is for files of {\"text\"}"));
    if (is_chat && chat_template == nullptr)
      throw NoChatTemplate(concat(path, " has chats, and ", options.chat_template.problem));
    Document document = kind == "text" ? text_document(line, *tokenizer, options, kept)
                        : is_chat ? chat_document(line, kind == "instruction", *tokenizer, *chat_template, options.chat)
                                  : ids_document(line, options.vocab_size);
    if (has(line, "domain")) {
      if (!line["domain"].is_string()) throw InvalidArgument("`domain` is not a string");
      document.domain = line["domain"];
      // It becomes the name of a metric, of every point of a training's curve.
      if (document.domain.size() > kMaxDomain) {
        throw InvalidArgument(concat("`domain` is ", document.domain.size(), " bytes long; at most ", kMaxDomain));
      }
    }
    if (kind != "ids") check_ids(document.ids, *tokenizer, options.vocab_size);
    visit(document);
  });
  if (tokenizer != nullptr) kept.warn(path, *tokenizer);
}

void for_each_text(const std::string& path, const std::function<void(std::string_view text)>& visit) {
  for_each_line(path, 0, [&](int64_t, const json& line) {
    const std::string kind = kind_of(line);
    if (kind == "text") {
      if (!line["text"].is_string())
        throw InvalidArgument(concat("`text` is ", line["text"].type_name(), "; expected a string"));
      visit(line["text"].get_ref<const std::string&>());
    } else if (kind != "ids") {
      const bool is_instruction = kind == "instruction";
      for (const ChatMessage& message : is_instruction ? instruction_messages(line, true) : messages_of(line)) {
        visit(message.content);
        visit(message.input);
      }
    }
  });
}

std::vector<IdLine> read_text_documents(const std::string& path, const Tokenizer& tokenizer,
                                        const DocumentOptions& options) {
  std::vector<IdLine> all;
  DocumentOptions reading = options;
  reading.append_eos = false;
  KeptAsText kept;
  for_each_line(path, 0, [&](int64_t number, const json& line) {
    // Of instruction data the rendered text is what was asked for here.
    if (kind_of(line) != "text" && !has(line, "text")) throw InvalidArgument("has no `text`");
    all.push_back({number, text_document(line, tokenizer, reading, kept).ids});
    check_ids(all.back().ids, tokenizer, options.vocab_size);
  });
  kept.warn(path, tokenizer);
  return all;
}

std::vector<IdLine> read_id_documents(const std::string& path, int64_t vocab_size) {
  std::vector<IdLine> all;
  for_each_line(path, 0, [&](int64_t number, const json& line) {
    if (kind_of(line) != "ids") throw InvalidArgument("has no `ids`");
    all.push_back({number, ids_document(line, vocab_size).ids});
  });
  return all;
}

}  // namespace moe
