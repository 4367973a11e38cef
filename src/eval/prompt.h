#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "runtime/opened_model.h"

namespace moe {

/// What a model is to continue (opened with its tokenizer): ids, and the ids after which nothing more is to be said.
struct Prompt {
  std::vector<int32_t> ids;
  std::set<int32_t> stops;
};

/// `text` as it stands behind the tokenizer's BOS. Stops are `eos_token_id` of config.json and of
/// generation_config.json (a number or a list), and the tokenizer's EOS: chat models often end an answer with one token
/// and a document with another.
Prompt text_prompt(const std::string& text, SpecialTokens specials, const OpenedModel& model);

/// What a user says, behind the system message if `system` has lines, up to where the answer begins, in the chat
/// template that the model was opened with; InvalidArgument if it is not known. Its end marker is a stop too.
Prompt chat_prompt(const std::string& text, const std::vector<std::string>& system, const OpenedModel& model);

}  // namespace moe
