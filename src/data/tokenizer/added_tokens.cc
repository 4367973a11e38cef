#include "data/tokenizer/added_tokens.h"

#include <algorithm>

#include "data/tokenizer/unicode_classes.h"
#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

bool is_word(char32_t c) {
  return (UnicodeClasses::get().of(c) & UnicodeClasses::kWord) != 0;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(code_point_before(text, begin).value)) return false;
  return end == text.size() || !is_word(code_point_at(text, end).value);
}

size_t spaces_before(std::string_view text, size_t begin) {
  while (begin > 0) {
    const CodePoint c = code_point_before(text, begin);
    if (!UnicodeClasses::get().is_space(c.value)) break;
    begin -= c.size;
  }
  return begin;
}

size_t spaces_behind(std::string_view text, size_t end) {
  while (end < text.size()) {
    const CodePoint c = code_point_at(text, end);
    if (!UnicodeClasses::get().is_space(c.value)) break;
    end += c.size;
  }
  return end;
}

}  // namespace

int32_t AddedTokenMatcher::child_of(int32_t node, uint8_t byte) const {
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return -1;
}

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  int32_t node = -1;
  for (const char letter : pattern) {
    const auto byte = static_cast<uint8_t>(letter);
    int32_t next = node < 0 ? roots_[byte] : child_of(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node < 0) {
        roots_[byte] = next;
      } else {
        nodes_[node].children.emplace_back(byte, next);
      }
    }
    node = next;
  }
  if (nodes_[node].token == nullptr) nodes_[node].token = &token;
}

const AddedToken* AddedTokenMatcher::match(std::string_view text, size_t at, size_t& end) const {
  const AddedToken* found = nullptr;
  int32_t node = roots_[static_cast<uint8_t>(text[at])];
  while (node >= 0) {
    ++at;
    if (nodes_[node].token != nullptr) {
      found = nodes_[node].token;
      end = at;
    }
    node = at < text.size() ? child_of(node, static_cast<uint8_t>(text[at])) : -1;
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, SpecialTokens specials, std::vector<Piece>& pieces,
                              std::vector<int32_t>* kept_as_text) const {
  pieces.clear();
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const AddedToken* const token = match(text, at, end);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    at = end;
    if (token->special && specials == SpecialTokens::kAsText) {
      if (kept_as_text != nullptr) kept_as_text->push_back(token->id);
      continue;
    }
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(spaces_before(text, begin), done);
    if (token->rstrip) end = spaces_behind(text, end);
    if (done < begin) pieces.push_back({done, begin, nullptr});
    pieces.push_back({begin, end, token});
    done = end;
  }
  if (done != text.size()) pieces.push_back({done, text.size(), nullptr});
}

}  // namespace moe
