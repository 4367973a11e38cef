#include "common/json_text.h"

#include <algorithm>
#include <set>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr size_t kMaxQuoted = 200;
/// White space behind an error is quoted by the library eight times as long as it is; this much is looked at.
constexpr size_t kMaxErrorText = 300;

std::string cut(std::string text, size_t most) {
  if (text.size() <= most) return text;
  // Not inside a character.
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;
  text.resize(most);
  return text + "...";
}

/// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..." without the library's own number.
std::string reason_of(const json::exception& error) {
  const std::string text = error.what();
  const size_t behind = text.find("] ");
  std::string reason = cut(behind == std::string::npos ? text : text.substr(behind + 2), kMaxErrorText);
  std::replace_if(reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return reason;
}

/// What the library does not check while it builds the tree.
class Rules {
 public:
  explicit Rules(const std::string& where) : where_(where) {}

  bool operator()(int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start: keys_.emplace_back(); [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= kMaxJsonDepth) throw Corruption(concat(where_, ": nested deeper than ", kMaxJsonDepth, " levels"));
        break;
      case json::parse_event_t::object_end: keys_.pop_back(); break;
      case json::parse_event_t::key:
        if (!keys_.back().insert(value.get<std::string>()).second) {
          throw Corruption(concat(where_, ": the key ", quoted_json(value), " stands twice in an object"));
        }
        break;
      default: break;
    }
    return true;
  }

 private:
  const std::string& where_;
  std::vector<std::set<std::string>> keys_;  ///< of the objects that are open
};

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  // The library takes a NUL for the end of the text: whatever follows would pass unseen.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) throw Corruption(concat(where, ": not valid JSON: a NUL at byte ", nul));
  Rules rules(where);
  try {
    return json::parse(text.begin(), text.end(), [&rules](int depth, json::parse_event_t event, json& value) { return rules(depth, event, value); });
  } catch (const json::exception& error) {
    throw Corruption(concat(where, ": not valid JSON: ", reason_of(error)));
  }
}

std::string quoted_json(const json& value) { return cut(value.dump(-1, ' ', false, json::error_handler_t::replace), kMaxQuoted); }

}  // namespace moe
