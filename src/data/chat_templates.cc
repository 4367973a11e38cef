#include "data/chat_templates.h"

namespace moe {
namespace {

/// Markers of plain text, for base models whose vocabulary has no chat tokens: a title line per turn, a blank line
/// between turns.
RenderedChat plain_markers(const std::vector<ChatMessage>& messages) {
  RenderedChat chat;
  for (const ChatMessage& message : messages) {
    if (!chat.text.empty()) chat.text += "\n\n";
    chat.text += message.role == "system" ? "### System:\n"
                 : message.role == "user" ? "### User:\n"
                                          : "### Assistant:\n";
    const size_t begin = chat.text.size();
    chat.text += message.content;
    if (message.role == "assistant") chat.assistant_turns.push_back({begin, chat.text.size()});
  }
  return chat;
}

}  // namespace

const Registry<ChatTemplate>& chat_templates() {
  static const Registry<ChatTemplate> templates("chat template", {
                                                                     {"plain_markers", plain_markers},
                                                                 });
  return templates;
}

}  // namespace moe
