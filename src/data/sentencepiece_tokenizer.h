#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"

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

  Encoding encode(std::string_view text) const override;
  std::string decode(const std::vector<int32_t>& ids) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(model_.pieces.size()); }
  std::optional<int32_t> bos_id() const override { return id_or_none(model_.bos_id); }
  std::optional<int32_t> eos_id() const override { return id_or_none(model_.eos_id); }
  std::string digest() const override { return digest_; }

 private:
  /// The text that BPE sees, and for each of its bytes (and its end) the offset in the original.
  struct Normalized {
    std::string text;
    std::vector<int64_t> origin;
  };
  Normalized normalize(std::string_view text) const;
  /// Bytes of the longest user-defined piece at text[at], or 0.
  size_t user_defined_length(std::string_view text, size_t at) const;
  static std::optional<int32_t> id_or_none(int32_t id) { return id < 0 ? std::nullopt : std::optional(id); }

  SentencePieceModel model_;
  std::string digest_;
  std::unordered_map<std::string_view, int32_t> mergeable_;  ///< what merging may give; keys into model_
  /// User-defined pieces by their first byte, the longest first.
  std::array<std::vector<std::string_view>, 256> user_defined_;
  bool has_user_defined_ = false;
  std::array<int32_t, 256> byte_ids_{};
  size_t longest_piece_ = 0;
};

}  // namespace moe
