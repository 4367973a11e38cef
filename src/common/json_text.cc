#include "common/json_text.h"

#include <algorithm>
#include <set>
#include <vector>

#include "common/error.h"
#include "common/python_json.h"

namespace moe {
namespace {

using nlohmann::json;

/// White space behind an error is quoted by the library eight times as long as it is; this much is looked at.
constexpr size_t kMaxErrorText = 300;

/// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..." without the library's own
/// number. The library quotes what it last read, byte by byte and whole.
std::string reason_of(const json::exception& error) {
  const std::string_view text = error.what();
  const size_t behind = text.find("] ");
  std::string reason = printable(behind == std::string_view::npos ? text : text.substr(behind + 2), kMaxErrorText);
  std::replace_if(
      reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return reason;
}

/// The library takes a NUL for the end of the text: whatever follows would pass unseen.
void refuse_nul(std::string_view text, const std::string& where) {
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw Corruption(concat(where, "not valid JSON: a NUL at byte ", nul));
  }
}

/// How many lists and objects stand in each other at most, brackets in strings apart.
int depth_of(std::string_view text) {
  int depth = 0, deepest = 0;
  bool is_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      is_string = !is_string;
    } else if (is_string) {
      at += c == '\\' ? 1 : 0;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

/// What the library does not check while it builds the tree.
class Rules {
 public:
  Rules(const std::string& where, const std::function<void(json&)>& visit) : where_(where), visit_(visit) {}

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
      case json::parse_event_t::value:
        if (visit_ && value.is_number()) visit_(value);
        break;
      default: break;
    }
    return true;
  }

 private:
  const std::string& where_;
  const std::function<void(json&)>& visit_;
  std::vector<std::set<std::string>> keys_;  ///< of the objects that are open
};

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  return parse_json(text, where, nullptr);
}

json parse_json(std::string_view text, const std::string& where, const std::function<void(json& number)>& visit) {
  refuse_nul(text, where + ": ");
  Rules rules(where, visit);
  try {
    return json::parse(text.begin(), text.end(), [&rules](int depth, json::parse_event_t event, json& value) {
      return rules(depth, event, value);
    });
  } catch (const json::exception& error) {
    throw Corruption(concat(where, ": not valid JSON: ", reason_of(error)));
  }
}

json parse_json_line(std::string_view line) {
  refuse_nul(line, "");
  if (depth_of(line) > kMaxJsonDepth) throw Corruption(concat("nested deeper than ", kMaxJsonDepth, " levels"));
  try {
    return json::parse(line.begin(), line.end());
  } catch (const json::exception& error) {
    throw Corruption(concat("not valid JSON: ", reason_of(error)));
  }
}

std::string quoted_json(const json& value) {
  return excerpt(python_json_text(value, -1));
}

}  // namespace moe
