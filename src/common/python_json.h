#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

/// JSON as Python's json module writes and reads it: with the literals NaN, Infinity and -Infinity, which are numbers
/// there. What transformers saves (config.json, an index, generation_config.json, tokenizer_config.json) is of this
/// kind. Pure functions.
namespace moe {

/// parse_json (json_text.h) that takes the three literals where a value may stand. Throws what that throws.
nlohmann::json parse_python_json(std::string_view text, const std::string& where);

/// The value as text, numbers that are not finite as those literals. Bytes that are not UTF-8 become U+FFFD. `indent`
/// as the library's dump has it, -1 for one line.
std::string python_json_text(const nlohmann::json& value, int indent);

}  // namespace moe
