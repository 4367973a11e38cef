#include "data/sentencepiece_tokenizer.h"

#include <algorithm>
#include <functional>

#include "common/error.h"
#include "common/file_io.h"
#include "data/bpe.h"
#include "data/utf8.h"

namespace moe {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";        // U+2581
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

/// Bytes as text; each byte that is not part of a character becomes U+FFFD.
void append_bytes(const std::string& bytes, std::string& text) {
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = utf8_length(bytes, at);
    text += length == 0 ? kReplacement : std::string_view(bytes).substr(at, length);
    at += length == 0 ? 1 : length;
  }
}

std::string spaces_unescaped(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    if (piece.substr(0, kSpace.size()) == kSpace) {
      text += ' ';
      piece.remove_prefix(kSpace.size());
    } else {
      text += piece.front();
      piece.remove_prefix(1);
    }
  }
  return text;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view file_bytes, const std::string& where)
    : model_(parse_sentencepiece_model(file_bytes, where)), digest_(xxh3_hex(file_bytes)) {
  for (size_t id = 0; id < model_.pieces.size(); ++id) {
    const Piece& piece = model_.pieces[id];
    if (piece.type == PieceType::kByte) byte_ids_[piece.byte] = static_cast<int32_t>(id);
    if (piece.type == PieceType::kByte || piece.type == PieceType::kControl || piece.type == PieceType::kUnknown)
      continue;
    if (!mergeable_.emplace(piece.text, static_cast<int32_t>(id)).second) {
      throw Corruption(concat(where, ": piece '", piece.text, "' stands twice"));
    }
    longest_piece_ = std::max(longest_piece_, piece.text.size());
    if (piece.type != PieceType::kUserDefined) continue;
    has_user_defined_ = true;
    user_defined_[static_cast<uint8_t>(piece.text.front())].push_back(piece.text);
  }
  for (std::vector<std::string_view>& pieces : user_defined_) {
    std::sort(pieces.begin(), pieces.end(), [](std::string_view a, std::string_view b) { return a.size() > b.size(); });
  }
}

size_t SentencePieceTokenizer::user_defined_length(std::string_view text, size_t at) const {
  if (!has_user_defined_) return 0;
  for (const std::string_view piece : user_defined_[static_cast<uint8_t>(text[at])]) {
    if (text.substr(at, piece.size()) == piece) return piece.size();
  }
  return 0;
}

SentencePieceTokenizer::Normalized SentencePieceTokenizer::normalize(std::string_view text) const {
  Normalized result;
  const auto append = [&result](std::string_view bytes, size_t origin) {
    result.text += bytes;
    result.origin.insert(result.origin.end(), bytes.size(), static_cast<int64_t>(origin));
  };
  size_t at = 0;
  if (model_.remove_extra_whitespaces) {
    while (at < text.size() && text[at] == ' ') ++at;
  }
  if (at < text.size() && model_.add_dummy_prefix) append(kSpace, at);
  bool after_space = model_.remove_extra_whitespaces;
  while (at < text.size()) {
    const size_t whole = user_defined_length(text, at);
    const bool is_space = whole == 0 && text[at] == ' ';
    const size_t length = whole > 0 ? whole : is_space ? 1 : utf8_length(text, at);
    if (!is_space || !after_space) append(is_space ? kSpace : text.substr(at, length), at);
    after_space = is_space && model_.remove_extra_whitespaces;
    at += length;
  }
  if (model_.remove_extra_whitespaces) {
    while (result.text.size() >= kSpace.size() &&
           std::string_view(result.text).substr(result.text.size() - kSpace.size()) == kSpace) {
      at = static_cast<size_t>(result.origin[result.text.size() - kSpace.size()]);
      result.text.resize(result.text.size() - kSpace.size());
      result.origin.resize(result.text.size());
    }
  }
  result.origin.push_back(static_cast<int64_t>(at));
  return result;
}

Encoding SentencePieceTokenizer::encode(std::string_view text) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    throw InvalidArgument(concat("text is not UTF-8 at byte ", bad));
  }
  const Normalized normalized = normalize(text);
  std::vector<size_t> sizes;
  std::vector<bool> is_frozen;
  for (size_t at = 0; at < normalized.text.size(); at += sizes.back()) {
    const size_t whole = user_defined_length(normalized.text, at);
    sizes.push_back(whole > 0 ? whole : utf8_length(normalized.text, at));
    if (has_user_defined_) is_frozen.push_back(whole > 0);
  }
  // Of each unused piece that came up, the bytes of its left part: the latest way of making it counts.
  std::unordered_map<std::string_view, size_t> unused;
  const std::vector<BpeSymbol> symbols =
      bpe(normalized.text, sizes, is_frozen, [&](std::string_view merged, size_t left_size) -> BpeMerge {
        if (merged.size() > longest_piece_) return {};
        const auto found = mergeable_.find(merged);
        if (found == mergeable_.end()) return {};
        const Piece& piece = model_.pieces[found->second];
        if (piece.type == PieceType::kUnused) unused[merged] = left_size;
        return {true, piece.score};
      });

  Encoding encoding;
  bool after_unknown = false;
  const std::function<void(size_t, size_t)> emit = [&](size_t at, size_t size) {
    const std::string_view piece = std::string_view(normalized.text).substr(at, size);
    const auto found = mergeable_.find(piece);
    const bool is_unused = found != mergeable_.end() && model_.pieces[found->second].type == PieceType::kUnused;
    if (const auto split = is_unused ? unused.find(piece) : unused.end(); split != unused.end()) {
      emit(at, split->second);
      emit(at + split->second, size - split->second);
      return;
    }
    const bool is_unknown = found == mergeable_.end() || is_unused;
    const int64_t begin = normalized.origin[at], end = normalized.origin[at + size];
    if (!is_unknown) {
      encoding.ids.push_back(found->second);
      encoding.offsets.emplace_back(begin, end);
    } else if (model_.byte_fallback) {
      // The last byte stands for the whole character, the others for nothing.
      for (size_t i = 0; i < piece.size(); ++i) {
        encoding.ids.push_back(byte_ids_[static_cast<uint8_t>(piece[i])]);
        encoding.offsets.emplace_back(begin, i + 1 == piece.size() ? end : begin);
      }
    } else if (after_unknown) {
      encoding.offsets.back().second = end;
    } else {
      encoding.ids.push_back(model_.unk_id);
      encoding.offsets.emplace_back(begin, end);
    }
    after_unknown = is_unknown;
  };
  for (const BpeSymbol& symbol : symbols) emit(symbol.begin, symbol.size);
  return encoding;
}

std::string SentencePieceTokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string text, bytes;
  bool at_start = true, took_prefix = false;
  const auto flush = [&] {
    append_bytes(bytes, text);
    bytes.clear();
  };
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size())
      throw InvalidArgument(concat("token id ", id, " is outside the vocabulary of ", vocab_size()));
    const Piece& piece = model_.pieces[id];
    if (piece.type == PieceType::kByte) {
      bytes += static_cast<char>(piece.byte);
      continue;
    }
    flush();
    if (took_prefix || !text.empty()) at_start = false;
    took_prefix = false;
    if (piece.type == PieceType::kControl) continue;
    if (piece.type == PieceType::kUnknown) {
      text += model_.unk_surface;
      continue;
    }
    std::string_view rest = piece.text;
    if (at_start && (model_.add_dummy_prefix || model_.remove_extra_whitespaces) &&
        rest.substr(0, kSpace.size()) == kSpace) {
      rest.remove_prefix(kSpace.size());
      took_prefix = !model_.remove_extra_whitespaces;
    }
    text += spaces_unescaped(rest);
  }
  flush();
  return text;
}

}  // namespace moe
