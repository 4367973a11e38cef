#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moe {

/// Reads JSON that others wrote (config.json, tokenizer.json, an index). Stricter than the library where it would hide
/// or break something: a key that stands twice in an object, a NUL, and nesting deeper than kMaxJsonDepth are refused.
/// Throws Corruption that starts with `where` (the file) and says what stands at which byte. Fuzzed by way of the files
/// that it reads.
nlohmann::json parse_json(std::string_view text, const std::string& where);

/// The same; `visit` sees each number in the order of the text and may put another value in its place.
nlohmann::json parse_json(std::string_view text, const std::string& where,
                          const std::function<void(nlohmann::json& number)>& visit);

/// Reads one line of a JSONL file that others wrote: as parse_json(), but a key that stands twice has its last value,
/// as other readers of such files have it. Throws Corruption with what is wrong; whoever has the file and the line puts
/// them in front.
nlohmann::json parse_json_line(std::string_view line);

/// Recursive walks over a document (printing it, for one) stay far from the end of the stack.
inline constexpr int kMaxJsonDepth = 64;

/// A value as a message quotes it: JSON on one line, cut where it is long.
std::string quoted_json(const nlohmann::json& value);

}  // namespace moe
