#include "common/python_json.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "common/json_text.h"

namespace moe {
namespace {

using nlohmann::json;

/// A byte that JSON allows in a string and that nobody writes: strings of it stand for the literals on their way
/// through the library.
constexpr char kMark = '\x7f';

/// A literal and the string, as long as itself so that messages name the right column, that stands for it.
struct Literal {
  std::string_view text;
  double value;

  std::string marks() const { return std::string(text.size() - 2, kMark); }
  std::string quoted_marks() const { return '"' + marks() + '"'; }
};

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<Literal, 3> kLiterals{
    {{"NaN", std::numeric_limits<double>::quiet_NaN()}, {"Infinity", kInfinity}, {"-Infinity", -kInfinity}}};

constexpr std::string_view kSpaces = " \t\r\n";

/// Whether the `size` bytes at `at` are a whole value, not a part of a word and no key.
bool is_value_at(std::string_view text, size_t at, size_t size) {
  const size_t before = at == 0 ? std::string_view::npos : text.find_last_not_of(kSpaces, at - 1);
  const size_t behind = text.find_first_not_of(kSpaces, at + size);
  return (before == std::string_view::npos || std::string_view("[,:").find(text[before]) != std::string_view::npos) &&
         (behind == std::string_view::npos || std::string_view(",]}").find(text[behind]) != std::string_view::npos);
}

/// The text with strings of marks for the literals.
std::string with_marks(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  bool is_in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    if (is_in_string && text[at] == '\\') {
      result += text.substr(at++, 2);
      continue;
    }
    if (text[at] == '"') is_in_string = !is_in_string;
    const Literal* found = nullptr;
    for (const Literal& literal : kLiterals) {
      if (!is_in_string && text.substr(at, literal.text.size()) == literal.text &&
          is_value_at(text, at, literal.text.size()))
        found = &literal;
    }
    if (found == nullptr) {
      result += text[at];
      continue;
    }
    result += found->quoted_marks();
    at += found->text.size() - 1;
  }
  return result;
}

void marks_to_numbers(json& value) {
  if (value.is_structured()) {
    for (json& element : value) marks_to_numbers(element);
  } else if (value.is_string()) {
    for (const Literal& literal : kLiterals) {
      if (value.get_ref<const std::string&>() == literal.marks()) {
        value = literal.value;
        return;
      }
    }
  }
}

const Literal* literal_of(const json& value) {
  if (!value.is_number_float() || std::isfinite(value.get<double>())) return nullptr;
  return &kLiterals[std::isnan(value.get<double>()) ? 0 : value.get<double>() > 0 ? 1 : 2];
}

bool has_literals(const json& value) {
  if (!value.is_structured()) return literal_of(value) != nullptr;
  for (const json& element : value) {
    if (has_literals(element)) return true;
  }
  return false;
}

void numbers_to_marks(json& value) {
  if (value.is_structured()) {
    for (json& element : value) numbers_to_marks(element);
  } else if (const Literal* const literal = literal_of(value)) {
    value = literal->marks();
  }
}

std::string dumped(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace

json parse_python_json(std::string_view text, const std::string& where) {
  const bool may_hold_literals =
      text.find("NaN") != std::string_view::npos || text.find("Infinity") != std::string_view::npos;
  if (!may_hold_literals || text.find(kMark) != std::string_view::npos) return parse_json(text, where);
  json value = parse_json(with_marks(text), where);
  marks_to_numbers(value);
  return value;
}

std::string python_json_text(const json& value, int indent) {
  if (!has_literals(value)) return dumped(value, indent);
  json marked = value;
  numbers_to_marks(marked);
  std::string text = dumped(marked, indent);
  for (const Literal& literal : kLiterals) {
    const std::string marks = literal.quoted_marks();
    for (size_t at = text.find(marks); at != std::string::npos; at = text.find(marks, at))
      text.replace(at, marks.size(), literal.text);
  }
  return text;
}

}  // namespace moe
