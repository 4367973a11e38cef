#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/registry.h"

/// Chat templates: a conversation becomes one text in which we know which bytes an assistant wrote. There is no Jinja
/// engine here: every template is a renderer of ours beside the Jinja source that says the same to other programs (peer
/// tests compare the two). Pure functions, safe from any thread. docs/chat_templates.md has the table.
namespace moe {

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
  std::string input{};  ///< of a user: what the instruction is about. Template alpaca has a place for it; elsewhere it
                        ///< must be empty
  bool is_learned = true;  ///< of an assistant: false for an answer that is context only
};

/// What a template may print of the tokenizer's special tokens.
struct ChatTokens {
  std::string bos, eos;   ///< bos_token and eos_token as texts; empty: the tokenizer has none
  bool adds_bos = false;  ///< whether the tokenizer itself puts BOS before a document
};

struct ChatOptions {
  bool add_generation_prompt = false;  ///< ends with what comes before an assistant's answer
  std::string date{};                  ///< llama3.1 prints it; empty: "26 Jul 2024", as its published text does
};

/// A conversation as one text, and which bytes of it an assistant wrote: one turn per message of the assistant.
struct RenderedChat {
  struct Turn {
    size_t begin =
        0;  ///< where generation of this answer would start; for templates with a space before it, at that space
    size_t end = 0;          ///< one past the last byte of the content
    size_t marker_end = 0;   ///< one past the turn's end marker, which is learned, too; `end` if the text has none
    bool is_learned = true;  ///< set by encode_chat
  };
  std::string text;
  std::vector<Turn> assistant_turns;
  bool prints_bos = false;  ///< whether the text begins with the BOS token
};

/// Throws InvalidArgument if the template does not allow these roles in this order.
using ChatRenderer = std::function<RenderedChat(std::span<const ChatMessage> messages, const ChatTokens& tokens,
                                                const ChatOptions& options)>;

struct ChatTemplate {
  std::string summary{};  ///< one line: what it looks like and whose it is
  ChatRenderer render{};
  std::string end_marker{};  ///< ends an answer; empty: the tokenizer's EOS does
  /// BOS first and EOS after each answer are put between the ids instead of being parsed from the text, and nothing in
  /// the text is a special token.
  bool has_marks_as_ids = false;
  bool has_place_for_input = false;  ///< whether ChatMessage::input may stand in a user's message
  std::string jinja{};               ///< the same template for other programs
};

/// THE list of chat templates.
const Registry<ChatTemplate>& chat_templates();

/// The template of a model that names none and has no template file.
inline constexpr std::string_view kDefaultChatTemplate = "plain_markers";

/// The Jinja text to write beside a model: that of the list, without BOS where the tokenizer adds none and the template
/// prints it only for those that do. Throws InvalidArgument for an unknown name.
std::string chat_template_jinja(std::string_view name, bool tokenizer_adds_bos);

}  // namespace moe
