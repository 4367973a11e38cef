#include "data/chat/canonical_jinja.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

#include "data/chat/jinja_scanner.h"

namespace moe::chat {
namespace {

using Tokens = std::vector<JinjaToken>;

bool is_operator(const JinjaToken& token, std::string_view text) {
  return token.kind == JinjaToken::Kind::kOperator && token.text == text;
}

bool is_identifier(const std::string& text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text.front())) == 0 &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; });
}

/// x['name'] -> x.name
Tokens with_dots(const Tokens& tokens) {
  Tokens result;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool is_subscript = i > 0 && i + 2 < tokens.size() && is_operator(tokens[i], "[") &&
                              tokens[i + 1].kind == JinjaToken::Kind::kString && is_operator(tokens[i + 2], "]") &&
                              is_identifier(tokens[i + 1].text) &&
                              (tokens[i - 1].kind == JinjaToken::Kind::kWord || is_operator(tokens[i - 1], "]") ||
                               is_operator(tokens[i - 1], ")"));
    if (is_subscript) {
      result.push_back({JinjaToken::Kind::kOperator, std::string(1, '.')});
      result.push_back({JinjaToken::Kind::kWord, tokens[i + 1].text});
      i += 2;
    } else {
      result.push_back(tokens[i]);
    }
  }
  return result;
}

/// The parts of a + b + c, if the expression is nothing but a sum of such; else the whole.
std::vector<Tokens> summands(const Tokens& tokens) {
  std::vector<Tokens> parts(1);
  int depth = 0;
  for (const JinjaToken& token : tokens) {
    if (token.kind == JinjaToken::Kind::kOperator && (token.text == "(" || token.text == "[")) ++depth;
    if (token.kind == JinjaToken::Kind::kOperator && (token.text == ")" || token.text == "]")) --depth;
    if (depth == 0 && token.kind == JinjaToken::Kind::kWord) {
      for (const char* word : {"if", "else", "and", "or", "not", "in", "is"}) {
        if (token.text == word) return {tokens};
      }
    }
    if (depth == 0 && is_operator(token, "+")) {
      parts.emplace_back();
      continue;
    }
    if (depth == 0 && token.kind == JinjaToken::Kind::kOperator) {
      for (const char* other : {"-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">="}) {
        if (token.text == other) return {tokens};
      }
    }
    parts.back().push_back(token);
  }
  const bool has_empty = std::any_of(parts.begin(), parts.end(), [](const Tokens& part) { return part.empty(); });
  return has_empty ? std::vector<Tokens>{tokens} : parts;
}

std::string written(const Tokens& tokens) {
  std::string text;
  for (const JinjaToken& token : tokens) {
    if (!text.empty()) text += ' ';
    text += token.kind == JinjaToken::Kind::kString
                ? nlohmann::json(token.text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                : token.text;
  }
  return text;
}

/// Lines of one letter and what it says; text that stands together is one line.
class Form {
 public:
  void text(const std::string& more) { pending_ += more; }
  void line(char letter, const Tokens& tokens) {
    flush();
    form_ += std::string(1, letter) + ' ' + written(tokens) + '\n';
  }
  std::string take() {
    flush();
    return std::move(form_);
  }

 private:
  void flush() {
    if (!pending_.empty()) form_ += "T " + written({{JinjaToken::Kind::kString, pending_}}) + '\n';
    pending_.clear();
  }
  std::string form_, pending_;
};

}  // namespace

std::optional<std::string> canonical_jinja(std::string_view source) {
  const auto items = scan_jinja(source);
  if (!items) return std::nullopt;
  Form form;
  for (const JinjaItem& item : *items) {
    if (item.kind == JinjaItem::Kind::kText) {
      form.text(item.text);
    } else if (item.kind == JinjaItem::Kind::kStatement) {
      if (!item.tokens.empty() && item.tokens.front().text == "raw") return std::nullopt;
      form.line('S', with_dots(item.tokens));
    } else {
      for (const Tokens& part : summands(with_dots(item.tokens))) {
        if (part.size() == 1 && part.front().kind == JinjaToken::Kind::kString) {
          form.text(part.front().text);
        } else {
          form.line('E', part);
        }
      }
    }
  }
  return form.take();
}

}  // namespace moe::chat
