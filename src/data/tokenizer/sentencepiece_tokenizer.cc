#include "data/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <functional>

#include "common/error.h"
#include "common/file_io.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581
std::string spaces_unescaped(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    if (piece.substr(0, kWordMark.size()) == kWordMark) {
      text += ' ';
      piece.remove_prefix(kWordMark.size());
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
    if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) {
      specials_.emplace(piece.text, static_cast<int32_t>(id));
      longest_special_ = std::max(longest_special_, piece.text.size());
      special_starts_.set(static_cast<uint8_t>(piece.text.front()));
    }
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
  // The highest score merges first; equal scores are one rank.
  std::vector<float> scores;
  for (const Piece& piece : model_.pieces) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  for (const Piece& piece : model_.pieces) {
    ranks_.push_back(static_cast<uint32_t>(
        std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>()) - scores.begin()));
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
  if (at < text.size() && model_.add_dummy_prefix) append(kWordMark, at);
  bool after_space = model_.remove_extra_whitespaces;
  while (at < text.size()) {
    const size_t whole = user_defined_length(text, at);
    const bool is_space = whole == 0 && text[at] == ' ';
    const size_t length = whole > 0 ? whole : is_space ? 1 : utf8_length(text, at);
    if (!is_space || !after_space) append(is_space ? kWordMark : text.substr(at, length), at);
    after_space = is_space && model_.remove_extra_whitespaces;
    at += length;
  }
  if (model_.remove_extra_whitespaces) {
    while (result.text.size() >= kWordMark.size() &&
           std::string_view(result.text).substr(result.text.size() - kWordMark.size()) == kWordMark) {
      at = static_cast<size_t>(result.origin[result.text.size() - kWordMark.size()]);
      result.text.resize(result.text.size() - kWordMark.size());
      result.origin.resize(result.text.size());
    }
  }
  result.origin.push_back(static_cast<int64_t>(at));
  return result;
}

int32_t SentencePieceTokenizer::special_at(std::string_view text, size_t at) const {
  if (!special_starts_.test(static_cast<uint8_t>(text[at]))) return -1;
  for (size_t size = std::min(longest_special_, text.size() - at); size > 0; --size) {
    if (const auto found = specials_.find(text.substr(at, size)); found != specials_.end()) return found->second;
  }
  return -1;
}

Encoding SentencePieceTokenizer::encode(std::string_view text, SpecialTokens specials) const {
  constexpr size_t kMostText = size_t{1} << 30;  // with spaces three times as long, offsets still fit
  if (text.size() > kMostText)
    throw InvalidArgument(concat("a text of ", text.size(), " bytes; at most ", kMostText, " can be encoded at once"));
  require_utf8(text);
  Encoding encoding;
  size_t begin = 0;
  for (size_t at = 0; specials == SpecialTokens::kParse && at < text.size();) {
    const int32_t id = special_at(text, at);
    if (id < 0) {
      ++at;
      continue;
    }
    encode_stretch(text, begin, at, encoding);
    begin = at + model_.pieces[id].text.size();
    encoding.ids.push_back(id);
    encoding.offsets.emplace_back(at, begin);
    at = begin;
  }
  encode_stretch(text, begin, text.size(), encoding);
  return encoding;
}

void SentencePieceTokenizer::encode_stretch(std::string_view text, size_t from, size_t to, Encoding& encoding) const {
  const Normalized normalized = normalize(text.substr(from, to - from));
  const auto base = static_cast<int64_t>(from);
  constexpr int32_t kFrozen = -2;
  std::vector<BpeSymbol> symbols;
  for (size_t at = 0; at < normalized.text.size(); at += symbols.back().size) {
    const size_t whole = user_defined_length(normalized.text, at);
    const size_t size = whole > 0 ? whole : utf8_length(normalized.text, at);
    symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(size), whole > 0 ? kFrozen : -1});
  }
  // Of each unused piece that came up, the bytes of its left part: the latest way of making it counts.
  std::unordered_map<std::string_view, size_t> unused;
  Bpe().run(symbols, [&](const BpeSymbol& left, const BpeSymbol& right) -> BpeMerge {
    if (left.id == kFrozen || right.id == kFrozen || left.size + right.size > longest_piece_) return {};
    const std::string_view merged = std::string_view(normalized.text).substr(left.begin, left.size + right.size);
    const auto found = mergeable_.find(merged);
    if (found == mergeable_.end()) return {};
    if (model_.pieces[found->second].type == PieceType::kUnused) unused[merged] = left.size;
    return {ranks_[found->second], found->second};
  });

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
    const int64_t begin = base + normalized.origin[at], end = base + normalized.origin[at + size];
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
}

std::optional<int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  for (const auto* table : {&mergeable_, &specials_}) {
    if (const auto found = table->find(token); found != table->end()) return found->second;
  }
  for (const int32_t id : byte_ids_) {
    if (model_.byte_fallback && model_.pieces[id].text == token) return id;
  }
  return std::nullopt;
}

std::string_view SentencePieceTokenizer::id_to_token(int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw InvalidArgument(concat("token id ", id, " is outside the vocabulary of ", vocab_size()));
  return model_.pieces[id].text;
}

namespace {

/// Control pieces are nothing, the first space that encoding put there is left out.
class PieceDecoder final : public TextDecoder {
 public:
  PieceDecoder(const SentencePieceTokenizer& tokenizer, const SentencePieceModel& model)
      : tokenizer_(tokenizer), model_(model) {}

  void push(int32_t id, std::string& text) override {
    const std::string_view piece = tokenizer_.id_to_token(id);
    const PieceType type = model_.pieces[id].type;
    if (type == PieceType::kByte) {
      bytes_ += static_cast<char>(model_.pieces[id].byte);
      has_text_ = true;
      drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/false, text);
      return;
    }
    drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/true, text);
    if (took_prefix_ || has_text_) at_start_ = false;
    took_prefix_ = false;
    if (type == PieceType::kControl) return;
    const size_t before = text.size();
    if (type == PieceType::kUnknown) {
      text += model_.unk_surface;
    } else {
      text += spaces_unescaped(without_prefix(piece));
    }
    has_text_ = has_text_ || text.size() > before;
  }

  void finish(std::string& text) override { drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/true, text); }

 private:
  std::string_view without_prefix(std::string_view piece) {
    if (!at_start_ || !(model_.add_dummy_prefix || model_.remove_extra_whitespaces)) return piece;
    if (piece.substr(0, kWordMark.size()) != kWordMark) return piece;
    took_prefix_ = !model_.remove_extra_whitespaces;
    return piece.substr(kWordMark.size());
  }

  const SentencePieceTokenizer& tokenizer_;
  const SentencePieceModel& model_;
  std::string bytes_;  ///< of byte pieces, not a whole character yet
  bool at_start_ = true, took_prefix_ = false, has_text_ = false;
};

}  // namespace

std::unique_ptr<TextDecoder> SentencePieceTokenizer::decoder(bool) const {
  return std::make_unique<PieceDecoder>(*this, model_);
}

}  // namespace moe
