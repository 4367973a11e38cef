#include "data/chat/renderers.h"

#include <utility>

#include "common/error.h"
#include "data/chat/default_texts.h"

namespace moe::chat {
namespace {

using Messages = std::span<const ChatMessage>;

/// A text that grows, and the answers in it.
class Page {
 public:
  Page& add(std::string_view text) {
    chat_.text += text;
    return *this;
  }
  /// An answer: `before` and `after` are generated with it, `marker` ends it.
  void answer(std::string_view before, std::string_view content, std::string_view after, std::string_view marker) {
    RenderedChat::Turn turn;
    turn.begin = chat_.text.size();
    add(before).add(content);
    turn.end = chat_.text.size();
    add(after).add(marker);
    turn.marker_end = chat_.text.size();
    chat_.assistant_turns.push_back(turn);
  }
  void add_bos(const ChatTokens& tokens) {
    chat_.prints_bos = !tokens.bos.empty();
    add(tokens.bos);
  }
  bool empty() const { return chat_.text.empty(); }
  RenderedChat take() { return std::move(chat_); }

 private:
  RenderedChat chat_;
};

bool starts_with_system(Messages messages) {
  return !messages.empty() && messages.front().role == "system";
}

/// For templates that know no system message elsewhere than in front.
void refuse_late_system(Messages messages, const char* name) {
  for (size_t i = 1; i < messages.size(); ++i) {
    if (messages[i].role == "system") {
      throw InvalidArgument(
          concat("messages[", i, "] is a system message; template ", name, " has a place for one in front only"));
    }
  }
}

void refuse_input(Messages messages, const char* name) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].input.empty()) {
      throw InvalidArgument(concat("messages[", i, "] has an `input`; template ", name,
                                   " has no place for it (alpaca has): put it into `content`"));
    }
  }
}

constexpr std::string_view kHeaderBegin = "<|start_header_id|>", kHeaderEnd = "<|end_header_id|>\n\n",
                           kEndOfTurn = "<|eot_id|>";

void add_llama3_turns(Page& page, Messages messages, const ChatOptions& options) {
  for (const ChatMessage& message : messages) {
    page.add(kHeaderBegin).add(message.role).add(kHeaderEnd);
    if (message.role == "assistant") {
      page.answer("", python_strip(message.content), "", kEndOfTurn);
    } else {
      page.add(python_strip(message.content)).add(kEndOfTurn);
    }
  }
  if (options.add_generation_prompt) page.add(kHeaderBegin).add("assistant").add(kHeaderEnd);
}

}  // namespace

std::string_view python_strip(std::string_view text) {
  // str.isspace(): the ASCII ones, then U+0085, 00A0, 1680, 2000-200A, 2028, 2029, 202F, 205F, 3000.
  const auto space_at = [](std::string_view at) -> size_t {
    const auto byte = [&at](size_t i) -> unsigned { return i < at.size() ? static_cast<unsigned char>(at[i]) : 0U; };
    if ((byte(0) >= 0x09 && byte(0) <= 0x0D) || (byte(0) >= 0x1C && byte(0) <= 0x20)) return 1;
    if (byte(0) == 0xC2 && (byte(1) == 0x85 || byte(1) == 0xA0)) return 2;
    if (byte(0) == 0xE1 && byte(1) == 0x9A && byte(2) == 0x80) return 3;
    if (byte(0) == 0xE2 && byte(1) == 0x80 &&
        ((byte(2) >= 0x80 && byte(2) <= 0x8A) || byte(2) == 0xA8 || byte(2) == 0xA9 || byte(2) == 0xAF)) {
      return 3;
    }
    if (byte(0) == 0xE2 && byte(1) == 0x81 && byte(2) == 0x9F) return 3;
    if (byte(0) == 0xE3 && byte(1) == 0x80 && byte(2) == 0x80) return 3;
    return 0;
  };
  while (!text.empty() && space_at(text) > 0) text.remove_prefix(space_at(text));
  for (bool is_done = false; !is_done && !text.empty();) {
    is_done = true;
    for (const size_t length : {size_t{1}, size_t{2}, size_t{3}}) {
      if (text.size() >= length && space_at(text.substr(text.size() - length)) == length) {
        text.remove_suffix(length);
        is_done = false;
        break;
      }
    }
  }
  return text;
}

RenderedChat plain_markers(Messages messages, const ChatTokens&, const ChatOptions& options) {
  refuse_input(messages, "plain_markers");
  Page page;
  for (const ChatMessage& message : messages) {
    if (!page.empty()) page.add("\n\n");
    page.add(message.role == "system" ? kSystemTitle : message.role == "user" ? kUserTitle : kAssistantTitle);
    if (message.role == "assistant") {
      page.answer("", message.content, "", "");
    } else {
      page.add(message.content);
    }
  }
  if (options.add_generation_prompt) page.add(page.empty() ? "" : "\n\n").add(kAssistantTitle);
  return page.take();
}

RenderedChat plain(Messages messages, const ChatTokens&, const ChatOptions& options) {
  refuse_input(messages, "plain");
  Page page;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (i > 0) page.add("\n\n");
    if (messages[i].role == "assistant") {
      page.answer("", messages[i].content, "", "");
    } else {
      page.add(messages[i].content);
    }
  }
  if (options.add_generation_prompt) page.add("\n\n");
  return page.take();
}

RenderedChat llama2(Messages messages, const ChatTokens& tokens, const ChatOptions&) {
  refuse_input(messages, "llama2");
  Page page;
  std::string system;
  const bool has_system = starts_with_system(messages);
  const Messages turns = has_system ? messages.subspan(1) : messages;
  if (has_system) system = concat("<<SYS>>\n", messages.front().content, "\n<</SYS>>\n\n");
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role != (i % 2 == 0 ? "user" : "assistant")) {
      throw InvalidArgument(
          concat("messages[", i + (has_system ? 1 : 0), "] is of the role '", turns[i].role,
                 "'; template llama2 wants user and assistant in turn, after at most one system message"));
    }
    if (turns[i].role == "user") {
      page.add_bos(tokens);
      page.add("[INST] ").add(python_strip(i == 0 ? system + turns[i].content : turns[i].content)).add(" [/INST]");
    } else {
      page.answer(" ", python_strip(turns[i].content), " ", tokens.eos);
    }
  }
  return page.take();
}

RenderedChat llama3(Messages messages, const ChatTokens& tokens, const ChatOptions& options) {
  refuse_input(messages, "llama3");
  Page page;
  page.add_bos(tokens);
  add_llama3_turns(page, messages, options);
  return page.take();
}

RenderedChat llama3_1(Messages messages, const ChatTokens& tokens, const ChatOptions& options) {
  refuse_input(messages, "llama3.1");
  Page page;
  page.add_bos(tokens);
  page.add(kHeaderBegin).add("system").add(kHeaderEnd);
  page.add("Cutting Knowledge Date: December 2023\nToday Date: ")
      .add(options.date.empty() ? "26 Jul 2024" : options.date)
      .add("\n\n");
  if (starts_with_system(messages)) {
    page.add(python_strip(messages.front().content));
    messages = messages.subspan(1);
  }
  page.add(kEndOfTurn);
  add_llama3_turns(page, messages, options);
  return page.take();
}

ChatRenderer chatml(std::string default_system) {
  return [system = std::move(default_system)](Messages messages, const ChatTokens&, const ChatOptions& options) {
    refuse_input(messages, "chatml");
    Page page;
    if (!system.empty() && !starts_with_system(messages))
      page.add("<|im_start|>system\n").add(system).add("<|im_end|>\n");
    for (const ChatMessage& message : messages) {
      page.add("<|im_start|>").add(message.role).add("\n");
      if (message.role == "assistant") {
        page.answer("", message.content, "", "<|im_end|>");
      } else {
        page.add(message.content).add("<|im_end|>");
      }
      page.add("\n");
    }
    if (options.add_generation_prompt) page.add("<|im_start|>assistant\n");
    return page.take();
  };
}

RenderedChat vicuna(Messages messages, const ChatTokens& tokens, const ChatOptions& options) {
  refuse_input(messages, "vicuna");
  refuse_late_system(messages, "vicuna");
  Page page;
  if (tokens.adds_bos) page.add_bos(tokens);
  page.add(starts_with_system(messages) ? std::string_view(messages.front().content) : kVicunaSystem).add(" ");
  for (const ChatMessage& message : messages.subspan(starts_with_system(messages) ? 1 : 0)) {
    if (message.role == "user") {
      page.add("USER: ").add(message.content).add(" ");
    } else {
      page.add("ASSISTANT:").answer(" ", message.content, "", tokens.eos);
    }
  }
  if (options.add_generation_prompt) page.add("ASSISTANT:");
  return page.take();
}

RenderedChat alpaca(Messages messages, const ChatTokens& tokens, const ChatOptions& options) {
  refuse_late_system(messages, "alpaca");
  const Messages turns = messages.subspan(starts_with_system(messages) ? 1 : 0);
  const bool has_input = !turns.empty() && !turns.front().input.empty();
  Page page;
  if (tokens.adds_bos) page.add_bos(tokens);
  page.add(starts_with_system(messages) ? std::string_view(messages.front().content)
           : has_input                  ? kAlpacaPreambleWithInput
                                        : kAlpacaPreamble);
  for (const ChatMessage& message : turns) {
    if (message.role == "user") {
      page.add("\n\n### Instruction:\n").add(message.content);
      if (!message.input.empty()) page.add("\n\n### Input:\n").add(message.input);
    } else {
      page.add("\n\n### Response:").answer("", message.content, "", tokens.eos);
    }
  }
  if (options.add_generation_prompt) page.add("\n\n### Response:");
  return page.take();
}

RenderedChat phi(Messages messages, const ChatTokens& tokens, const ChatOptions& options) {
  refuse_input(messages, "phi");
  Page page;
  if (tokens.adds_bos) page.add_bos(tokens);
  for (const ChatMessage& message : messages) {
    if (message.role == "assistant") {
      page.add("Output:").answer(" ", message.content, "", tokens.eos);
      page.add("\n");
    } else {
      page.add(message.role == "user" ? "Instruct: " : "").add(message.content).add("\n");
    }
  }
  if (options.add_generation_prompt) page.add("Output:");
  return page.take();
}

}  // namespace moe::chat
