#include "common/python_json.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>

#include "common/error.h"
#include "common/json_text.h"

namespace moe {
namespace {

using nlohmann::json;

/// A literal, and a number of JSON as long as itself, so that messages name the right column, that takes its place on
/// the way through the library. Which numbers of the document were literals is told by counting, so that no text can be
/// taken for one.
struct Literal {
  std::string_view text;
  std::string_view number;
  double value;
};

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<Literal, 3> kLiterals{{{"NaN", "0.0", std::numeric_limits<double>::quiet_NaN()},
                                            {"Infinity", "0.000000", kInfinity},
                                            {"-Infinity", "-0.000000", -kInfinity}}};

constexpr std::string_view kSpaces = " \t\r\n";

/// Whether the `size` bytes at `at` are a whole value, not a part of a word and no key.
bool is_value_at(std::string_view text, size_t at, size_t size) {
  const size_t before = at == 0 ? std::string_view::npos : text.find_last_not_of(kSpaces, at - 1);
  const size_t behind = text.find_first_not_of(kSpaces, at + size);
  return (before == std::string_view::npos || std::string_view("[,:").find(text[before]) != std::string_view::npos) &&
         (behind == std::string_view::npos || std::string_view(",]}").find(text[behind]) != std::string_view::npos);
}

/// The text with numbers for the literals, and which of all numbers, counted from 0 in the order of the text, they are.
struct Numbered {
  std::string text;
  std::map<size_t, double> literals;
};

Numbered with_numbers(std::string_view text) {
  Numbered result;
  result.text.reserve(text.size());
  size_t numbers = 0;
  bool is_in_string = false, is_in_word = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (is_in_string && c == '\\') {
      result.text += text.substr(at++, 2);
      continue;
    }
    if (c == '"') is_in_string = !is_in_string;
    const Literal* found = nullptr;
    for (const Literal& literal : kLiterals) {
      if (!is_in_string && text.substr(at, literal.text.size()) == literal.text &&
          is_value_at(text, at, literal.text.size()))
        found = &literal;
    }
    if (found != nullptr) {
      result.literals[numbers++] = found->value;
      result.text += found->number;
      at += found->text.size() - 1;
      continue;
    }
    const bool is_of_word =
        !is_in_string && (c == '-' || c == '+' || c == '.' || std::isalnum(static_cast<unsigned char>(c)) != 0);
    if (is_of_word && !is_in_word && (c == '-' || std::isdigit(static_cast<unsigned char>(c)) != 0)) ++numbers;
    is_in_word = is_of_word;
    result.text += c;
  }
  return result;
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

void literals_to_strings(json& value, const std::string& mark) {
  if (value.is_structured()) {
    for (json& element : value) literals_to_strings(element, mark);
  } else if (const Literal* const literal = literal_of(value)) {
    value = mark + std::string(literal->text);
  }
}

std::string dumped(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace

json parse_python_json(std::string_view text, const std::string& where) {
  if (text.find("NaN") == std::string_view::npos && text.find("Infinity") == std::string_view::npos)
    return parse_json(text, where);
  const Numbered numbered = with_numbers(text);
  size_t numbers = 0;
  return parse_json(numbered.text, where, [&](json& number) {
    if (const auto literal = numbered.literals.find(numbers++); literal != numbered.literals.end())
      number = literal->second;
  });
}

std::string python_json_text(const json& value, int indent) {
  std::string text = dumped(value, indent);
  if (!has_literals(value)) return text;
  // Strings stand for the literals while the library writes. They start with what stands nowhere in the document.
  size_t run = 0, longest_run = 0;
  for (const char c : text) {
    run = c == '?' ? run + 1 : 0;
    longest_run = std::max(longest_run, run);
  }
  const std::string mark(longest_run + 1, '?');
  json marked = value;
  literals_to_strings(marked, mark);
  text = dumped(marked, indent);
  for (const Literal& literal : kLiterals) {
    const std::string quoted = concat('"', mark, literal.text, '"');
    for (size_t at = text.find(quoted); at != std::string::npos; at = text.find(quoted, at))
      text.replace(at, quoted.size(), literal.text);
  }
  return text;
}

}  // namespace moe
