#pragma once

#include <cstddef>
#include <string_view>

namespace moe {

/// End of the piece that starts at text[at] (at < text.size()); `text` is UTF-8. Every character belongs to a piece.
using PatternScanner = size_t (*)(std::string_view text, size_t at);

/// Hand-written scanners of the regular expressions that byte-level tokenizers split text with. They are known by their
/// exact spelling in tokenizer.json, and are the whole list: there is no general regular-expression engine.
extern const char* const kGpt2Pattern;    ///< also what ByteLevel's use_regex means (GPT-2, Phi-2, SmolLM2)
extern const char* const kLlama3Pattern;  ///< numbers in groups of three
extern const char* const kQwen2Pattern;   ///< each digit alone

/// Null for a pattern that none of them is.
PatternScanner scanner_of(std::string_view pattern);

}  // namespace moe
