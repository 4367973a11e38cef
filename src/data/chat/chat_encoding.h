#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/chat/chat_templates.h"
#include "data/tokenizer/tokenizer.h"

/// Conversations as tokens with label masks. The whole conversation is rendered once and encoded once, special tokens
/// parsed; a token is supervised if its bytes begin at or after the beginning of an answer and end at or before the end
/// of that answer's end marker. Tokens that lie across a border are not supervised. Templates with marks as ids
/// (plain_markers) have BOS first and EOS after each answer put between the ids instead. An answer that is not to be
/// learned (ChatMessage::is_learned) is never supervised, whatever the options say.
namespace moe {

struct ChatEncodingOptions {
  std::string supervise = "all";  ///< "all" answers, only the "last", or the "whole" conversation
  bool drop_system = false;       ///< leaves system messages out (LLaMA-MoE v2 trains so)
  std::string date{};             ///< of ChatOptions
};

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> supervised;  ///< one per id
};

/// Throws InvalidArgument if the template does not allow the roles, or `supervise` is none of the three.
EncodedChat encode_chat(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                        const Tokenizer& tokenizer, const ChatEncodingOptions& options = {});

/// The conversation so far and what comes before the answer that a model is to give.
std::vector<int32_t> encode_chat_prompt(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                                        const Tokenizer& tokenizer, const std::string& date = "");

}  // namespace moe
