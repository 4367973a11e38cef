#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/sentencepiece_model.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_settings.h"

namespace moe {

/// BPE as SentencePiece does it: spaces become U+2581, with a dummy prefix and whitespace rules as the file says;
/// user-defined pieces are cut out first (the longest at each place) and never merged; a piece marked unused is merged
/// through, then split again (a single character: unknown); characters outside the vocabulary become their bytes or,
/// where the file has none, a merged unknown.
/// With the files beside it the ids are those of transformers' LlamaTokenizer (the slow one of 4.57).
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// Special tokens are those of `settings`; without such files, the control pieces and the unknown one. Throws what
  /// parse_sentencepiece_model throws, and InvalidArgument for an added token that must stand alone (single_word).
  SentencePieceTokenizer(std::string_view file_bytes, const std::string& where, const TokenizerSettings& settings = {});
  SentencePieceTokenizer(const SentencePieceTokenizer&) = delete;
  SentencePieceTokenizer& operator=(const SentencePieceTokenizer&) = delete;

  /// Added tokens are cut out (special ones if kParse); each stretch between them is a text of its own: with its own
  /// dummy prefix, or `legacy: false`, with one before the first alone.
  Encoding encode(std::string_view text, SpecialTokens specials = SpecialTokens::kAsText) const override;
  std::unique_ptr<TextDecoder> decoder(bool skip_special_tokens) const override;
  int64_t vocab_size() const override;
  bool has_token(int32_t id) const override;
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::string_view id_to_token(int32_t id) const override;
  std::optional<int32_t> bos_id() const override { return adds_bos_ ? token_to_id_or_none(bos_token_) : std::nullopt; }
  std::optional<int32_t> suffix_id() const override { return adds_eos_ ? eos_id() : std::nullopt; }
  std::optional<int32_t> eos_id() const override { return token_to_id_or_none(eos_token_); }
  std::string bos_token() const override { return bos_token_; }
  std::string eos_token() const override { return eos_token_; }
  std::string digest() const override { return digest_; }

 private:
  /// The text that BPE sees, and for each of its bytes (and its end) the offset in the original.
  struct Normalized {
    std::string text;
    std::vector<int64_t> origin;
  };
  /// What stands before a stretch.
  enum class Prefix {
    kOfModel,  ///< as the file says, white space included
    kSpace,    ///< a space; white space of the text stays
    kNone,
  };
  Normalized normalize(std::string_view text, Prefix prefix) const;
  /// Appends what BPE makes of text[begin, end).
  void encode_stretch(std::string_view text, size_t from, size_t to, Prefix prefix, Encoding& encoding) const;
  void add_tokens(const TokenizerSettings& settings, const std::string& where);
  /// What decides about ids besides the file.
  std::string describe_rules() const;
  /// Bytes of the longest user-defined piece at text[at], or 0.
  size_t user_defined_length(std::string_view text, size_t at) const;
  std::optional<int32_t> token_to_id_or_none(const std::string& token) const {
    return token.empty() ? std::nullopt : token_to_id(token);
  }
  std::string piece_or_empty(int32_t id) const { return id < 0 ? "" : model_.pieces[id].text; }

  SentencePieceModel model_;
  std::string digest_;
  std::map<int32_t, AddedToken> added_;                      ///< cut out of texts, by id
  std::unordered_map<std::string_view, int32_t> added_ids_;  ///< keys into added_
  std::unordered_set<int32_t> roles_;                        ///< of added_: those with a role
  AddedTokenMatcher matcher_;                                ///< of added_
  std::string bos_token_, eos_token_;
  bool adds_bos_ = true, adds_eos_ = false, is_legacy_ = true, adds_prefix_space_ = true;
  std::unordered_map<std::string_view, int32_t> unmergeable_;  ///< control pieces and the unknown one; keys into model_
  std::unordered_map<std::string_view, int32_t> mergeable_;    ///< what merging may give; keys into model_
  std::vector<uint32_t> ranks_;                                ///< of merging, by id
  /// User-defined pieces by their first byte, the longest first.
  std::array<std::vector<std::string_view>, 256> user_defined_;
  bool has_user_defined_ = false;
  std::array<int32_t, 256> byte_ids_{};
  size_t longest_piece_ = 0;
};

}  // namespace moe
