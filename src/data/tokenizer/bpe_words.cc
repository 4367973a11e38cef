#include "data/tokenizer/bpe_words.h"

#include <algorithm>

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/utf8.h"

namespace moe {
namespace {

/// The start of a word's symbols, as the HF library puts them: an unknown character waits until the next known one, so
/// that bytes of the byte fallback may overtake it.
class SymbolRow {
 public:
  SymbolRow(std::vector<BpeSymbol>& symbols, std::optional<int32_t> unknown_id, bool fuses)
      : symbols_(symbols), unknown_id_(unknown_id), fuses_(fuses) {}

  void add_known(int32_t id, uint32_t size) {
    flush();
    add(id, size);
  }
  void add_fallback_byte(int32_t id) { add(id, 1); }
  void add_unknown(uint32_t size) {
    if (!unknown_id_) return;
    if (!fuses_) flush();
    waiting_ += size;
  }
  void flush() {
    if (waiting_ > 0) add(*unknown_id_, waiting_);
    waiting_ = 0;
  }

 private:
  void add(int32_t id, uint32_t size) {
    symbols_.push_back({begin_, size, id});
    begin_ += size;
  }

  std::vector<BpeSymbol>& symbols_;
  std::optional<int32_t> unknown_id_;
  bool fuses_;
  uint32_t begin_ = 0, waiting_ = 0;
};

uint32_t mapped_size(char byte) {
  return byte_level_character(static_cast<uint8_t>(byte)) < 0x80 ? 1 : 2;
}

}  // namespace

BpeWords::BpeWords(Vocabulary vocabulary, MergeTable merges, const Options& options)
    : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), options_(options) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    byte_ids_[byte] = vocabulary_.find({&text, 1});
    fallback_ids_[byte] = vocabulary_.find(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
  }
  find_joints();
}

void BpeWords::find_joints() {
  if (options_.is_byte_level) return;  // words are short, and not characters
  const bool has_all_bytes =
      std::all_of(fallback_ids_.begin(), fallback_ids_.end(), [](int32_t id) { return id >= 0; });
  if (!options_.unknown_id && !(options_.byte_fallback && has_all_bytes)) return;
  std::vector<bool> is_opaque(vocabulary_.id_end());
  if (options_.unknown_id) is_opaque[*options_.unknown_id] = true;
  for (const int32_t id : fallback_ids_) {
    if (id >= 0) is_opaque[id] = true;
  }
  joints_ = MergeTable(merges_.size());
  has_joints_ = true;
  merges_.for_each([&](int32_t left, int32_t right) {
    const std::string &before = vocabulary_.text_of(left), &behind = vocabulary_.text_of(right);
    if (before.empty() || behind.empty() || is_opaque[left] || is_opaque[right]) {
      has_joints_ = false;
      return;
    }
    joints_.insert(static_cast<int32_t>(code_point_before(before, before.size()).value),
                   static_cast<int32_t>(code_point_at(behind, 0).value), {0, 0});
  });
}

size_t BpeWords::end_of_part(std::string_view word, size_t begin) const {
  const auto is_known = [&](size_t at, size_t size) {
    return (size == 1 ? byte_ids_[static_cast<uint8_t>(word[at])] : vocabulary_.find(word.substr(at, size))) >= 0;
  };
  CodePoint previous = code_point_at(word, begin);
  for (size_t at = begin + previous.size; at < word.size();) {
    const CodePoint c = code_point_at(word, at);
    const bool is_joint =
        joints_.find(static_cast<int32_t>(previous.value), static_cast<int32_t>(c.value)).rank != BpeMerge::kNone;
    if (!is_joint && is_known(at - previous.size, previous.size) && is_known(at, c.size)) return at;
    at += c.size;
    previous = c;
  }
  return word.size();
}

bool BpeWords::start_with_bytes(std::string_view word, std::vector<BpeSymbol>& symbols) const {
  for (size_t at = 0; at < word.size(); ++at) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(word[at])];
    if (id < 0) {
      symbols.clear();
      SymbolRow row(symbols, options_.unknown_id, options_.fuse_unknown);
      for (const char byte : word) {
        const int32_t known = byte_ids_[static_cast<uint8_t>(byte)];
        if (known >= 0) row.add_known(known, mapped_size(byte));
        if (known < 0) row.add_unknown(mapped_size(byte));
      }
      row.flush();
      return false;
    }
    symbols.push_back({static_cast<uint32_t>(at), 1, id});
  }
  return true;
}

void BpeWords::start_with_characters(std::string_view word, std::vector<BpeSymbol>& symbols) const {
  SymbolRow row(symbols, options_.unknown_id, options_.fuse_unknown);
  for (size_t at = 0; at < word.size();) {
    const size_t size = code_point_at(word, at).size;
    const std::string_view character = word.substr(at, size);
    at += size;
    const int32_t id = size == 1 ? byte_ids_[static_cast<uint8_t>(character[0])] : vocabulary_.find(character);
    const auto has_byte = [this](char byte) { return fallback_ids_[static_cast<uint8_t>(byte)] >= 0; };
    if (id >= 0) {
      row.add_known(id, static_cast<uint32_t>(size));
    } else if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_byte)) {
      for (const char byte : character) row.add_fallback_byte(fallback_ids_[static_cast<uint8_t>(byte)]);
    } else {
      row.add_unknown(static_cast<uint32_t>(size));
    }
  }
  row.flush();
}

std::span<const WordToken> BpeWords::encode_anew(std::string_view word, Workspace& workspace) const {
  std::vector<WordToken>& tokens = workspace.tokens;
  tokens.clear();
  std::vector<BpeSymbol>& symbols = workspace.symbols;
  symbols.clear();
  bool counts_bytes = true;
  if (options_.is_byte_level) {
    counts_bytes = start_with_bytes(word, symbols);
  } else {
    start_with_characters(word, symbols);
  }
  workspace.bpe.run(symbols,
                    [this](const BpeSymbol& left, const BpeSymbol& right) { return merges_.find(left.id, right.id); });
  for (const BpeSymbol& symbol : symbols) tokens.push_back({symbol.id, symbol.begin, symbol.begin + symbol.size});
  if (counts_bytes) return tokens;
  // From characters of the byte map to bytes: the byte that a character begins or lies in.
  std::vector<uint32_t>& starts = workspace.starts;
  starts.clear();
  for (size_t at = 0; at < word.size(); ++at)
    starts.insert(starts.end(), mapped_size(word[at]), static_cast<uint32_t>(at));
  for (WordToken& token : tokens) {
    token.begin = starts[token.begin];
    token.end = starts[token.end - 1] + 1;
  }
  return tokens;
}

std::span<const WordToken> BpeWords::encode_part(std::string_view part, Workspace& workspace) const {
  if (part.size() > WordCache::kLongest) return encode_anew(part, workspace);
  const uint64_t hash = WordCache::hash_of(part);
  if (const std::span<const WordToken> known = workspace.cache.find(part, hash); known.data() != nullptr) return known;
  const std::span<const WordToken> tokens = encode_anew(part, workspace);
  if (!tokens.empty()) workspace.cache.insert(part, hash, tokens);
  return tokens;
}

std::span<const WordToken> BpeWords::encode(std::string_view word, Workspace& workspace) const {
  std::vector<WordToken>& all = workspace.all_tokens;
  all.clear();
  if (options_.ignore_merges) {
    if (const int32_t id = vocabulary_.find(word); id >= 0) {
      all.push_back({id, 0, static_cast<uint32_t>(word.size())});
      return all;
    }
  }
  size_t end = has_joints_ && !word.empty() ? end_of_part(word, 0) : word.size();
  if (end == word.size()) return encode_part(word, workspace);
  for (size_t begin = 0; begin < word.size(); begin = end) {
    if (begin > 0) end = end_of_part(word, begin);
    for (const WordToken& token : encode_part(word.substr(begin, end - begin), workspace)) {
      const auto shift = static_cast<uint32_t>(begin);
      all.push_back({token.id, token.begin + shift, token.end + shift});
    }
  }
  return all;
}

}  // namespace moe
