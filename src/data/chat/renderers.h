#pragma once

#include <span>
#include <string>
#include <string_view>

#include "data/chat/chat_templates.h"

/// The renderers behind chat_templates(). Each appends message after message to one text and notes where answers stand.
/// What a template trims is trimmed as Python's str.strip() does, since the published Jinja texts are written for it.
namespace moe::chat {

RenderedChat plain_markers(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat plain(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat llama2(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat llama3(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat llama3_1(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat vicuna(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat alpaca(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
RenderedChat phi(std::span<const ChatMessage> messages, const ChatTokens& tokens, const ChatOptions& options);
/// ChatML; `default_system` goes first when the conversation does not begin with a system message, if it is not empty.
ChatRenderer chatml(std::string default_system);

/// Without white space at both ends: str.strip() of Python, so Unicode's, too.
std::string_view python_strip(std::string_view text);

}  // namespace moe::chat
