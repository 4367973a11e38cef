#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/registry.h"

namespace moe {

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// A conversation as one text, and which bytes of it an assistant wrote.
struct RenderedChat {
  struct Turn {
    size_t begin = 0;  ///< first byte of the content
    size_t end = 0;    ///< one past its last byte: an EOS token belongs here
  };
  std::string text;
  std::vector<Turn> assistant_turns;
};

using ChatTemplate = std::function<RenderedChat(const std::vector<ChatMessage>& messages)>;

/// THE list of chat templates.
const Registry<ChatTemplate>& chat_templates();

/// The template of a model that names none.
inline constexpr std::string_view kDefaultChatTemplate = "plain_markers";

}  // namespace moe
