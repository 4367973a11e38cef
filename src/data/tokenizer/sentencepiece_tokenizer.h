#pragma once

#include <array>
#include <bitset>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/sentencepiece_model.h"
#include "data/tokenizer/tokenizer.h"

namespace moe {

/// BPE as SentencePiece does it: spaces become U+2581, with a dummy prefix and whitespace rules as the file says;
/// user-defined pieces are cut out first (the longest at each place) and never merged; a piece marked unused is merged
/// through, then split again (a single character: unknown); characters outside the vocabulary become their bytes or,
/// where the file has none, a merged unknown.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view file_bytes, const std::string& where);
  SentencePieceTokenizer(const SentencePieceTokenizer&) = delete;
  SentencePieceTokenizer& operator=(const SentencePieceTokenizer&) = delete;

  /// kParse cuts the text at the control pieces' spelling (and the unknown piece's); each stretch between them is a
  /// text of its own, with its own dummy prefix, as in the HF form of such a model.
  Encoding encode(std::string_view text, SpecialTokens specials = SpecialTokens::kAsText) const override;
  std::unique_ptr<TextDecoder> decoder(bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(model_.pieces.size()); }
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::string_view id_to_token(int32_t id) const override;
  std::optional<int32_t> bos_id() const override { return id_or_none(model_.bos_id); }
  std::optional<int32_t> eos_id() const override { return id_or_none(model_.eos_id); }
  std::string bos_token() const override { return text_or_empty(model_.bos_id); }
  std::string eos_token() const override { return text_or_empty(model_.eos_id); }
  std::string digest() const override { return digest_; }

 private:
  /// The text that BPE sees, and for each of its bytes (and its end) the offset in the original.
  struct Normalized {
    std::string text;
    std::vector<int64_t> origin;
  };
  Normalized normalize(std::string_view text) const;
  /// Appends what BPE makes of text[begin, end).
  void encode_stretch(std::string_view text, size_t from, size_t to, Encoding& encoding) const;
  /// The longest special piece spelled at text[at], or -1.
  int32_t special_at(std::string_view text, size_t at) const;
  /// Bytes of the longest user-defined piece at text[at], or 0.
  size_t user_defined_length(std::string_view text, size_t at) const;
  static std::optional<int32_t> id_or_none(int32_t id) { return id < 0 ? std::nullopt : std::optional(id); }

  std::string text_or_empty(int32_t id) const { return id < 0 ? "" : model_.pieces[id].text; }

  SentencePieceModel model_;
  std::string digest_;
  std::unordered_map<std::string_view, int32_t> specials_;  ///< control pieces and the unknown one; keys into model_
  size_t longest_special_ = 0;
  std::bitset<256> special_starts_;                          ///< their first bytes
  std::unordered_map<std::string_view, int32_t> mergeable_;  ///< what merging may give; keys into model_
  std::vector<uint32_t> ranks_;                              ///< of merging, by id
  /// User-defined pieces by their first byte, the longest first.
  std::array<std::vector<std::string_view>, 256> user_defined_;
  bool has_user_defined_ = false;
  std::array<int32_t, 256> byte_ids_{};
  size_t longest_piece_ = 0;
};

}  // namespace moe
