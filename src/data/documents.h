#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat/chat_encoding.h"
#include "data/chat/chat_templates.h"
#include "data/chat/directory_template.h"
#include "data/tokenizer/tokenizer.h"

namespace moe {

/// A document as tokens, and which of them are to be predicted.
struct Document {
  std::vector<int32_t> ids;
  std::vector<uint8_t> supervised;  ///< one per id
  std::string domain;               ///< of the line, or empty
  bool is_chat = false;
};

struct DocumentOptions {
  bool append_eos = true;  ///< text: BOS + text + EOS
  ChatTemplateChoice chat_template{
      std::string(kDefaultChatTemplate)};  ///< a problem is thrown when the first chat comes
  ChatEncodingOptions chat{};
  int64_t max_documents = 0;                              ///< the first so many; 0: all
  SpecialTokens special_tokens = SpecialTokens::kAsText;  ///< that {"text"} lines spell
  int64_t vocab_size = 0;                                 ///< of the model: bound of all ids; 0: none
};

/// Reads, line by line, a JSONL file whose lines are all {"text"}, all {"messages"}, all {"instruction", "output"}
/// (with "input" or without: a chat of one question; a "text" beside them is the same rendered, and not looked at) or
/// all {"ids"}. Blank lines are skipped, and a field that is null is absent: editors and tables write both. Everything
/// in a text or ids document is supervised but its first token; what special tokens its text spells stays text, with a
/// warning for the file, unless they are to be parsed; of a chat, what the assistant says and the end marker after it
/// (chat/chat_encoding.h), except in a message of "weight": 0. `tokenizer` may be null for a file of ids. Throws
/// InvalidArgument that lists up to five bad lines as file:line.
void for_each_document(const std::string& path, const Tokenizer* tokenizer, const DocumentOptions& options,
                       const std::function<void(const Document&)>& visit);

/// Calls `visit` with each text of such a file as it stands there: {"text"}, each message of a chat, instruction, input
/// and output. {"ids"} are none. Line by line: memory does not grow with the file. Throws as for_each_document does.
void for_each_text(const std::string& path, const std::function<void(std::string_view text)>& visit);

/// The ids of one line.
struct IdLine {
  int64_t number = 0;  ///< of the line, from 1
  std::vector<int32_t> ids;
};

/// The ids of each {"text"} line with what the tokenizer itself puts before and behind them, in file order. Of
/// `options` count special_tokens and vocab_size.
std::vector<IdLine> read_text_documents(const std::string& path, const Tokenizer& tokenizer,
                                        const DocumentOptions& options = {});

/// The {"ids"} of each line, in file order.
std::vector<IdLine> read_id_documents(const std::string& path, int64_t vocab_size);

}  // namespace moe
