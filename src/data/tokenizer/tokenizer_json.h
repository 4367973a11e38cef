#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/bpe_words.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json_reader.h"
#include "data/tokenizer/tokenizer_settings.h"

namespace moe {

/// A tokenizer of the HF library, as its tokenizer.json says: text -> added tokens cut out -> normaliser -> added
/// tokens that are looked for in normalised text -> words -> BPE. Ids and offsets (here in bytes) are the library's.
class JsonTokenizer final : public Tokenizer {
 public:
  /// With the tokens of the files beside it (add_tokens), whose roles are theirs alone. What is put before and behind a
  /// text is the template's, as transformers 5 has it, whatever add_bos_token and add_eos_token say. Throws what
  /// parse_tokenizer_json throws.
  JsonTokenizer(std::string_view file_bytes, const std::string& where, const TokenizerSettings& settings = {});
  JsonTokenizer(const JsonTokenizer&) = delete;
  JsonTokenizer& operator=(const JsonTokenizer&) = delete;
  ~JsonTokenizer() override;

  Encoding encode(std::string_view text, SpecialTokens specials = SpecialTokens::kAsText) const override;
  std::unique_ptr<TextDecoder> decoder(bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(vocabulary_.id_end()); }
  bool has_token(int32_t id) const override { return vocabulary_.has(id); }
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  /// An added token that is looked for in normalised text: in its normalised form.
  std::string_view id_to_token(int32_t id) const override;
  std::optional<int32_t> bos_id() const override { return prefix_id_; }
  std::optional<int32_t> suffix_id() const override { return suffix_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  std::string bos_token() const override { return bos_token_; }
  std::string eos_token() const override { return eos_token_; }
  std::string digest() const override { return digest_; }

 private:
  struct Workspace;
  class Run;
  class Lease;

  JsonTokenizer(TokenizerJson file, std::string_view file_bytes, const std::string& where,
                const TokenizerSettings& settings);

  Vocabulary vocabulary_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeWords words_;
  std::vector<AddedToken> added_tokens_;
  AddedTokenMatcher raw_matcher_, normalized_matcher_;
  /// Of the added tokens that are looked for in normalised text: decoding gives them back as they were found, and
  /// leaves them out only if that is the spelling of a special token. So the library does it.
  std::unordered_map<int32_t, std::string> normalized_texts_;
  std::vector<bool> is_special_;  ///< by id
  std::vector<bool> offset_trims_;
  /// Characters that count as spaces at both ends of each token, by id; only where offsets are trimmed.
  std::vector<std::pair<uint16_t, uint16_t>> space_counts_;
  std::vector<DecoderNode> decoders_;
  std::optional<int32_t> prefix_id_, suffix_id_, eos_id_;
  std::string bos_token_, eos_token_;
  std::string digest_;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;  ///< one per thread that has been here at the same time
};

}  // namespace moe
