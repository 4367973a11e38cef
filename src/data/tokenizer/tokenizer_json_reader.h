#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/merge_table.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pretokenizer.h"
#include "data/tokenizer/token_decoders.h"
#include "data/tokenizer/vocabulary.h"

namespace moe {

/// What a `tokenizer.json` file says, checked: ids are unique and every id that is referred to exists. Truncation and
/// padding are the caller's business and not read; neither is the template for pairs of texts.
struct TokenizerJson {
  std::vector<NormalizerNode> normalizers;
  std::vector<PreTokenizerNode> pre_tokenizers;
  bool is_byte_level = false;  ///< words are bytes: the last pre-tokenizer is ByteLevel

  Vocabulary vocabulary;  ///< as the file spells it, with the added tokens
  Vocabulary model;       ///< what BPE may give: text or, byte-level, bytes
  MergeTable merges;      ///< over ids of `model`
  std::optional<int32_t> unknown_id;
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;

  int64_t model_tokens = 0;   ///< in model.vocab: added tokens that are not there follow
  size_t tokens_of_file = 0;  ///< of added_tokens, those of this file; the others stand in files beside it
  std::vector<AddedToken> added_tokens;
  std::vector<bool>
      offset_trims;  ///< a ByteLevel post-processor each: leaves spaces out of offsets; its add_prefix_space
  std::optional<int32_t> prefix_id, suffix_id;  ///< what the template puts before and behind a text
  std::vector<DecoderNode> decoders;
};

/// Adds tokens of the files beside tokenizer.json as the HF library does: those with a text that it has not as an added
/// token yet. One of the model's vocabulary keeps its id there; the others follow the largest, whatever id they have.
void add_tokens(const std::vector<AddedToken>& tokens, TokenizerJson& file);

/// Reads the file's bytes. Every message starts with `where` and names the key. Throws Corruption for what is damaged
/// (not JSON, a wrong type, an id that stands twice, a merge of or into what is no token) and InvalidArgument for what
/// is not supported: models other than BPE, dropout, word affixes, and any node or pattern that is not listed in the
/// node headers.
TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& where);

}  // namespace moe
