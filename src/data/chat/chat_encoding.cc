#include "data/chat/chat_encoding.h"

#include <algorithm>
#include <string_view>

#include "common/error.h"

namespace moe {
namespace {

using Turn = RenderedChat::Turn;

ChatTokens chat_tokens(const Tokenizer& tokenizer) {
  return {std::string(tokenizer.bos_token()), std::string(tokenizer.eos_token()), tokenizer.bos_id().has_value()};
}

/// Encodes at once; where a token would lie across the end of an answer, so that EOS has no place, piece by piece.
Encoding encode_to_ends(const Tokenizer& tokenizer, std::string_view text, const std::vector<Turn>& turns) {
  Encoding whole = tokenizer.encode(text, SpecialTokens::kAsText);
  const auto lies_across = [&whole](const Turn& turn) {
    const auto end = static_cast<int64_t>(turn.end);
    return std::any_of(whole.offsets.begin(), whole.offsets.end(),
                       [end](const auto& span) { return span.first < end && span.second > end; });
  };
  if (std::none_of(turns.begin(), turns.end(), lies_across)) return whole;
  Encoding pieces;
  size_t begin = 0;
  for (size_t i = 0; i <= turns.size(); ++i) {
    const size_t end = i < turns.size() ? turns[i].end : text.size();
    const Encoding piece = tokenizer.encode(text.substr(begin, end - begin), SpecialTokens::kAsText);
    pieces.ids.insert(pieces.ids.end(), piece.ids.begin(), piece.ids.end());
    for (const auto& [first, last] : piece.offsets) {
      pieces.offsets.emplace_back(first + static_cast<int64_t>(begin), last + static_cast<int64_t>(begin));
    }
    begin = end;
  }
  return pieces;
}

/// Whether a token over these bytes is within the answer or its end marker. An empty one at the end belongs to what
/// follows.
bool is_inside(const Turn& turn, size_t begin, size_t end) {
  return begin >= turn.begin && end <= turn.marker_end && (begin < turn.marker_end || turn.begin == turn.marker_end);
}

/// `learns_rest`: what is no answer is supervised, too.
EncodedChat encode_with_ids(const RenderedChat& chat, const Tokenizer& tokenizer, bool learns_rest) {
  const Encoding encoding = encode_to_ends(tokenizer, chat.text, chat.assistant_turns);
  EncodedChat result;
  const auto add = [&result](int32_t id, bool supervised) {
    result.ids.push_back(id);
    result.supervised.push_back(supervised ? 1 : 0);
  };
  if (tokenizer.bos_id()) add(*tokenizer.bos_id(), learns_rest);
  size_t turn = 0;
  const auto end_turns_before = [&](size_t offset) {
    for (; turn < chat.assistant_turns.size() && chat.assistant_turns[turn].end <= offset; ++turn) {
      if (tokenizer.eos_id()) add(*tokenizer.eos_id(), chat.assistant_turns[turn].is_learned);
    }
  };
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    const auto begin = static_cast<size_t>(encoding.offsets[i].first),
               end = static_cast<size_t>(encoding.offsets[i].second);
    end_turns_before(begin);
    const bool inside = turn < chat.assistant_turns.size() && begin >= chat.assistant_turns[turn].begin &&
                        end <= chat.assistant_turns[turn].end;
    add(encoding.ids[i], inside ? chat.assistant_turns[turn].is_learned : learns_rest);
  }
  end_turns_before(chat.text.size());
  return result;
}

EncodedChat encode_with_text(const RenderedChat& chat, const Tokenizer& tokenizer, bool learns_rest) {
  Encoding encoding = tokenizer.encode(chat.text, SpecialTokens::kParse);
  EncodedChat result{std::move(encoding.ids), {}};
  result.supervised.assign(result.ids.size(), learns_rest ? 1 : 0);
  size_t turn = 0;
  for (size_t i = 0; i < result.ids.size(); ++i) {
    const auto begin = static_cast<size_t>(encoding.offsets[i].first),
               end = static_cast<size_t>(encoding.offsets[i].second);
    while (turn < chat.assistant_turns.size() && chat.assistant_turns[turn].marker_end <= begin) ++turn;
    if (turn < chat.assistant_turns.size() && is_inside(chat.assistant_turns[turn], begin, end))
      result.supervised[i] = chat.assistant_turns[turn].is_learned ? 1 : 0;
  }
  return result;
}

/// Which answers are learned: those that the messages allow, or of them the last answer only.
void mark_learned(std::vector<Turn>& turns, std::span<const ChatMessage> messages, bool only_last) {
  size_t turn = 0;
  for (const ChatMessage& message : messages) {
    if (message.role != "assistant") continue;
    MOE_CHECK(turn < turns.size(), "the template rendered ", turns.size(), " answers of more");
    turns[turn].is_learned = message.is_learned && (!only_last || turn + 1 == turns.size());
    ++turn;
  }
  MOE_CHECK(turn == turns.size(), "the template rendered ", turns.size(), " answers of ", turn);
}

}  // namespace

EncodedChat encode_chat(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                        const Tokenizer& tokenizer, const ChatEncodingOptions& options) {
  std::vector<ChatMessage> kept;
  if (options.drop_system) {
    std::copy_if(messages.begin(), messages.end(), std::back_inserter(kept),
                 [](const ChatMessage& message) { return message.role != "system"; });
    messages = kept;
  }
  if (options.supervise != "all" && options.supervise != "last" && options.supervise != "whole") {
    throw InvalidArgument(concat("supervise '", options.supervise, "' is unknown; known: all, last, whole"));
  }
  RenderedChat chat = chat_template.render(messages, chat_tokens(tokenizer), {.date = options.date});
  mark_learned(chat.assistant_turns, messages, options.supervise == "last");
  const bool learns_rest = options.supervise == "whole";
  return chat_template.has_marks_as_ids ? encode_with_ids(chat, tokenizer, learns_rest)
                                        : encode_with_text(chat, tokenizer, learns_rest);
}

std::vector<int32_t> encode_chat_prompt(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                                        const Tokenizer& tokenizer, const std::string& date) {
  const RenderedChat chat =
      chat_template.render(messages, chat_tokens(tokenizer), {.add_generation_prompt = true, .date = date});
  return chat_template.has_marks_as_ids ? encode_with_ids(chat, tokenizer, false).ids
                                        : tokenizer.encode(chat.text, SpecialTokens::kParse).ids;
}

}  // namespace moe
