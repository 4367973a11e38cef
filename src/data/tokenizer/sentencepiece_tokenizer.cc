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

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view file_bytes, const std::string& where,
                                               const TokenizerSettings& settings)
    : model_(parse_sentencepiece_model(file_bytes, where)), digest_(xxh3_hex(file_bytes)) {
  for (size_t id = 0; id < model_.pieces.size(); ++id) {
    const Piece& piece = model_.pieces[id];
    if (piece.type == PieceType::kByte) byte_ids_[piece.byte] = static_cast<int32_t>(id);
    if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) {
      unmergeable_.emplace(piece.text, static_cast<int32_t>(id));
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
  add_tokens({}, where);
  if (!settings.has_files) return;
  const std::string of_file = describe_rules();
  added_.clear();
  added_ids_.clear();
  roles_.clear();
  matcher_ = {};
  add_tokens(settings, where);
  // The digest is the file's as long as the files beside it say nothing else.
  if (const std::string rules = describe_rules(); rules != of_file) digest_ = xxh3_hex(concat(digest_, rules));
}

std::string SentencePieceTokenizer::describe_rules() const {
  std::vector<AddedToken> all;
  for (const auto& [id, token] : added_) all.push_back(token);
  return concat(" ", bos_token_, " ", eos_token_, " ", adds_bos_, adds_eos_, is_legacy_, adds_prefix_space_,
                TokenizerSettings::describe(all));
}

/// As transformers does: first those that have an id; then, each if it is new, those with a role, at the id of its
/// piece or behind all texts that there are by then.
void SentencePieceTokenizer::add_tokens(const TokenizerSettings& settings, const std::string& where) {
  bos_token_ = TokenizerSettings::text_of(settings.bos, piece_or_empty(model_.bos_id));
  eos_token_ = TokenizerSettings::text_of(settings.eos, piece_or_empty(model_.eos_id));
  adds_bos_ = settings.adds_bos.value_or(true);
  adds_eos_ = settings.adds_eos.value_or(false);
  is_legacy_ = settings.is_legacy.value_or(true);
  adds_prefix_space_ = settings.adds_prefix_space;
  std::vector<AddedToken> special = settings.special;
  const auto add_piece = [&](int32_t id) {
    AddedToken token;
    token.content = piece_or_empty(id);
    token.special = true;
    special.push_back(std::move(token));
  };
  if (!settings.has_files) {
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const PieceType type = model_.pieces[id].type;
      if (type == PieceType::kControl || type == PieceType::kUnknown) add_piece(static_cast<int32_t>(id));
    }
  } else {
    // Where no file has the role. Those of the files come first; only new ids depend on the order, and a piece has its
    // own.
    if (!settings.bos) add_piece(model_.bos_id);
    if (!settings.eos) add_piece(model_.eos_id);
    if (!settings.unknown) add_piece(model_.unk_id);
  }
  auto texts = static_cast<int64_t>(model_.pieces.size());
  const auto add = [&](AddedToken token) {
    if (token.single_word) {
      throw InvalidArgument(
          concat(where, ": the added token '", token.content,
                 "' of the files beside it is a single_word, which is not supported for a tokenizer.model"));
    }
    token.normalized = false;  // has no meaning here
    const int32_t id = token.id;
    const auto [place, is_new] = added_.emplace(id, std::move(token));
    if (!is_new) {
      throw Corruption(concat(where, ": the files beside it give the id ", id, " to '", place->second.content,
                              "' and to another token"));
    }
    added_ids_.emplace(place->second.content, id);
  };
  for (const AddedToken& token : settings.added) {
    const std::optional<int32_t> piece = token_to_id(token.content);
    const bool takes_a_place = token.id < static_cast<int64_t>(model_.pieces.size());
    if (!piece && !takes_a_place) ++texts;
    add(token);
  }
  for (AddedToken& token : special) {
    if (token.content.empty()) continue;
    if (const auto known = added_ids_.find(token.content); known != added_ids_.end()) {
      roles_.insert(known->second);
      continue;
    }
    const std::optional<int32_t> piece = token_to_id(token.content);
    token.id = piece ? *piece : static_cast<int32_t>(texts++);
    roles_.insert(token.id);
    add(token);
  }
  for (auto& [id, token] : added_) {
    token.special = token.special || roles_.contains(id);
    matcher_.add(token.content, token);
  }
}

size_t SentencePieceTokenizer::user_defined_length(std::string_view text, size_t at) const {
  if (!has_user_defined_) return 0;
  for (const std::string_view piece : user_defined_[static_cast<uint8_t>(text[at])]) {
    if (text.substr(at, piece.size()) == piece) return piece.size();
  }
  return 0;
}

SentencePieceTokenizer::Normalized SentencePieceTokenizer::normalize(std::string_view text, Prefix prefix) const {
  Normalized result;
  const auto append = [&result](std::string_view bytes, size_t origin) {
    result.text += bytes;
    result.origin.insert(result.origin.end(), bytes.size(), static_cast<int64_t>(origin));
  };
  size_t at = 0;
  const bool is_of_model = prefix == Prefix::kOfModel;
  if (is_of_model && model_.remove_extra_whitespaces) {
    while (at < text.size() && text[at] == ' ') ++at;
  }
  if (prefix == Prefix::kSpace || (is_of_model && at < text.size() && model_.add_dummy_prefix)) append(kWordMark, at);
  bool after_space = is_of_model && model_.remove_extra_whitespaces;
  while (at < text.size()) {
    const size_t whole = user_defined_length(text, at);
    // Of a text that gets its prefix here, transformers takes the mark for the space that it stands for.
    const bool is_mark = !is_of_model && whole == 0 && text.substr(at, kWordMark.size()) == kWordMark;
    const bool is_space = is_mark || (whole == 0 && text[at] == ' ');
    const size_t length = whole > 0 ? whole : is_space && !is_mark ? 1 : utf8_length(text, at);
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

Encoding SentencePieceTokenizer::encode(std::string_view text, SpecialTokens specials) const {
  constexpr size_t kMostText = size_t{1} << 30;  // with spaces three times as long, offsets still fit
  if (text.size() > kMostText)
    throw InvalidArgument(concat("a text of ", text.size(), " bytes; at most ", kMostText, " can be encoded at once"));
  require_utf8(text);
  Encoding encoding;
  std::vector<AddedTokenMatcher::Piece> pieces;
  matcher_.split(text, specials, pieces, &encoding.kept_as_text);
  const Prefix later = is_legacy_ ? Prefix::kOfModel : Prefix::kNone;
  Prefix next = is_legacy_ ? Prefix::kOfModel : adds_prefix_space_ ? Prefix::kSpace : Prefix::kNone;
  for (const AddedTokenMatcher::Piece& piece : pieces) {
    if (piece.token == nullptr) {
      encode_stretch(text, piece.begin, piece.end, next, encoding);
      next = later;
      continue;
    }
    if (next == Prefix::kSpace) encode_stretch(text, piece.begin, piece.begin, next, encoding);
    next = later;
    // A space alone, before a token with a role, is taken away again.
    const bool is_behind_one = encoding.ids.size() == 1 && id_to_token(encoding.ids.front()) == kWordMark;
    if (!is_legacy_ && is_behind_one && roles_.contains(piece.token->id)) {
      encoding.ids.clear();
      encoding.offsets.clear();
    }
    encoding.ids.push_back(piece.token->id);
    encoding.offsets.emplace_back(piece.begin, piece.end);
  }
  return encoding;
}

void SentencePieceTokenizer::encode_stretch(std::string_view text, size_t from, size_t to, Prefix prefix,
                                            Encoding& encoding) const {
  const Normalized normalized = normalize(text.substr(from, to - from), prefix);
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
  for (const auto* table : {&added_ids_, &mergeable_, &unmergeable_}) {
    if (const auto found = table->find(token); found != table->end()) return found->second;
  }
  for (const int32_t id : byte_ids_) {
    if (model_.byte_fallback && model_.pieces[id].text == token) return id;
  }
  return std::nullopt;
}

int64_t SentencePieceTokenizer::vocab_size() const {
  const auto pieces = static_cast<int64_t>(model_.pieces.size());
  return added_.empty() ? pieces : std::max<int64_t>(pieces, int64_t{added_.rbegin()->first} + 1);
}

bool SentencePieceTokenizer::has_token(int32_t id) const {
  return id >= 0 && (static_cast<size_t>(id) < model_.pieces.size() || added_.contains(id));
}

std::string_view SentencePieceTokenizer::id_to_token(int32_t id) const {
  if (const auto added = added_.find(id); added != added_.end()) return added->second.content;
  if (!has_token(id)) throw InvalidArgument(concat("token id ", id, " is outside the vocabulary of ", vocab_size()));
  return model_.pieces[id].text;
}

namespace {

/// Control pieces are nothing, the first space that encoding put there is left out.
class PieceDecoder final : public TextDecoder {
 public:
  PieceDecoder(const SentencePieceTokenizer& tokenizer, const SentencePieceModel& model,
               const std::map<int32_t, AddedToken>& added, bool leaves_specials_out)
      : tokenizer_(tokenizer), model_(model), added_(added), leaves_specials_out_(leaves_specials_out) {}

  void push(int32_t id, std::string& text) override {
    if (id >= 0 && !tokenizer_.has_token(id)) return;
    const std::string_view piece = tokenizer_.id_to_token(id);
    const AddedToken* const added = added_of(id);
    const bool is_piece = added == nullptr || is_name_of_piece(*added);
    const PieceType type = is_piece ? model_.pieces[id].type : PieceType::kUserDefined;
    if (type == PieceType::kByte) {
      bytes_ += static_cast<char>(model_.pieces[id].byte);
      has_text_ = true;
      drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/false, text);
      return;
    }
    drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/true, text);
    if (took_prefix_ || has_text_) at_start_ = false;
    took_prefix_ = false;
    if (type == PieceType::kControl || (added != nullptr && added->special && leaves_specials_out_)) return;
    const size_t before = text.size();
    if (!is_piece) {
      text += piece;
    } else if (type == PieceType::kUnknown) {
      text += model_.unk_surface;
    } else {
      text += spaces_unescaped(without_prefix(piece));
    }
    has_text_ = has_text_ || text.size() > before;
  }

  void finish(std::string& text) override { drain_utf8(bytes_, BrokenUtf8::kReplaceEachByte, /*is_end=*/true, text); }

 private:
  const AddedToken* added_of(int32_t id) const {
    const auto found = added_.find(id);
    return found == added_.end() ? nullptr : &found->second;
  }
  bool is_name_of_piece(const AddedToken& token) const {
    return static_cast<size_t>(token.id) < model_.pieces.size() && model_.pieces[token.id].text == token.content;
  }

  std::string_view without_prefix(std::string_view piece) {
    if (!at_start_ || !(model_.add_dummy_prefix || model_.remove_extra_whitespaces)) return piece;
    if (piece.substr(0, kWordMark.size()) != kWordMark) return piece;
    took_prefix_ = !model_.remove_extra_whitespaces;
    return piece.substr(kWordMark.size());
  }

  const SentencePieceTokenizer& tokenizer_;
  const SentencePieceModel& model_;
  const std::map<int32_t, AddedToken>& added_;
  bool leaves_specials_out_;
  std::string bytes_;  ///< of byte pieces, not a whole character yet
  bool at_start_ = true, took_prefix_ = false, has_text_ = false;
};

}  // namespace

std::unique_ptr<TextDecoder> SentencePieceTokenizer::decoder(bool skip_special_tokens) const {
  return std::make_unique<PieceDecoder>(*this, model_, added_, skip_special_tokens);
}

}  // namespace moe
