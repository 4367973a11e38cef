#include "data/chat/jinja_scanner.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace moe::chat {
namespace {

constexpr std::string_view kSpace = " \t\n\r\v\f";

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// Reads one source from front to back.
class Scanner {
 public:
  explicit Scanner(std::string source) : source_(std::move(source)) {}

  std::optional<std::vector<JinjaItem>> scan() {
    while (at_ < source_.size()) {
      const size_t open = find_open(at_);
      std::string text = source_.substr(at_, open - at_);
      if (open == std::string::npos) {
        add_text(std::move(text));
        break;
      }
      const char kind = source_[open + 1];
      const char mark = open + 2 < source_.size() ? source_[open + 2] : ' ';
      if (mark == '-') {
        text.resize(text.find_last_not_of(kSpace) + 1);
      } else if (mark != '+' && kind != '{') {
        strip_indent(text);
      }
      add_text(std::move(text));
      at_ = open + (mark == '-' || (mark == '+' && kind != '{') ? 3 : 2);
      if (!(kind == '#' ? skip_comment() : read_tag(kind))) return std::nullopt;
    }
    return std::move(items_);
  }

 private:
  size_t find_open(size_t from) const {
    for (size_t i = source_.find('{', from); i != std::string::npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    }
    return std::string::npos;
  }

  /// lstrip_blocks: white space between the beginning of a line and a statement or comment.
  void strip_indent(std::string& text) const {
    const size_t line = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    if (line == 0 && !at_line_start_) return;
    if (text.find_first_not_of(kSpace, line) == std::string::npos) text.resize(line);
  }

  void add_text(std::string text) {
    if (!text.empty()) items_.push_back({JinjaItem::Kind::kText, std::move(text), {}});
  }

  /// Behind the end of a tag: `-` eats all white space, a statement or comment one line end.
  void finish_tag(bool eats_space, bool trims_line) {
    at_line_start_ = false;
    if (eats_space) {
      const size_t begin = at_;
      at_ = std::min(source_.find_first_not_of(kSpace, at_), source_.size());
      at_line_start_ = at_ > begin && source_[at_ - 1] == '\n';
    } else if (trims_line && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
      at_line_start_ = true;
    }
  }

  bool skip_comment() {
    const size_t close = source_.find("#}", at_);
    if (close == std::string::npos) return false;
    const char mark = close > at_ ? source_[close - 1] : ' ';
    at_ = close + 2;
    finish_tag(mark == '-', mark != '+');
    return true;
  }

  bool read_tag(char kind) {
    JinjaItem item{kind == '{' ? JinjaItem::Kind::kExpression : JinjaItem::Kind::kStatement, {}, {}};
    const std::string close = kind == '{' ? "}}" : "%}";
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (kSpace.find(c) != std::string_view::npos) {
        ++at_;
        continue;
      }
      for (const std::string& end : {"-" + close, "+" + close, close}) {
        if (source_.compare(at_, end.size(), end) != 0 || (end.front() == '+' && kind == '{')) continue;
        at_ += end.size();
        finish_tag(end.front() == '-', kind == '%' && end.front() != '+');
        items_.push_back(std::move(item));
        return true;
      }
      if (!read_token(item.tokens)) return false;
    }
    return false;
  }

  bool read_token(std::vector<JinjaToken>& tokens) {
    const char c = source_[at_];
    if (c == '\'' || c == '"') return read_string(c, tokens);
    if (c == '{' || c == '}') return false;
    size_t length = 1;
    const bool word = is_word(c);
    if (word) {
      while (at_ + length < source_.size() && is_word(source_[at_ + length])) ++length;
    } else {
      for (const char* two : {"==", "!=", "<=", ">=", "//", "**"}) {
        if (source_.compare(at_, 2, two) == 0) length = 2;
      }
    }
    tokens.push_back({word ? JinjaToken::Kind::kWord : JinjaToken::Kind::kOperator, source_.substr(at_, length)});
    at_ += length;
    return true;
  }

  bool read_string(char quote, std::vector<JinjaToken>& tokens) {
    std::string text;
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      if (source_[at_] != '\\') {
        text += source_[at_];
        continue;
      }
      if (++at_ >= source_.size()) return false;
      constexpr std::string_view kNames = "ntr\\'\"", kMeanings = "\n\t\r\\'\"";
      const size_t escape = kNames.find(source_[at_]);
      if (escape == std::string_view::npos) return false;
      text += kMeanings[escape];
    }
    if (at_ >= source_.size()) return false;
    ++at_;
    tokens.push_back({JinjaToken::Kind::kString, std::move(text)});
    return true;
  }

  std::string source_;
  size_t at_ = 0;
  bool at_line_start_ = true;
  std::vector<JinjaItem> items_;
};

}  // namespace

std::optional<std::vector<JinjaItem>> scan_jinja(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  // keep_trailing_newline is off.
  if (text.ends_with('\n')) text.pop_back();
  return Scanner(std::move(text)).scan();
}

}  // namespace moe::chat
