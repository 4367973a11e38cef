#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/merge_table.h"
#include "data/tokenizer/vocabulary.h"
#include "data/tokenizer/word_cache.h"

namespace moe {

/// The BPE model of tokenizer.json: a word -> its tokens. Byte-level, the word and the vocabulary are bytes; else they
/// are characters. What the vocabulary lacks becomes its bytes "<0xAB>" (byte_fallback, if all of them exist), else the
/// unknown token, else nothing. Where characters vanish the ranges shift left, as in the HF library, whose offsets are
/// sums of lengths. A word may be a whole document (LLaMA-2): it is cut where no merge can reach across, which changes
/// nothing and lets the parts be looked up. Immutable; threads share it, each with a Workspace of its own.
class BpeWords {
 public:
  struct Options {
    bool is_byte_level = false, fuse_unknown = false, byte_fallback = false, ignore_merges = false;
    std::optional<int32_t> unknown_id;
  };
  struct Workspace {
    Bpe bpe;
    std::vector<BpeSymbol> symbols;
    std::vector<WordToken> tokens;
    std::vector<WordToken> all_tokens;  ///< of all parts of a word
    std::vector<uint32_t> starts;       ///< in characters of the byte map
    WordCache cache;
  };

  /// `merges` are over ids of the vocabulary.
  BpeWords(Vocabulary vocabulary, MergeTable merges, const Options& options);

  /// The span holds until the next call.
  std::span<const WordToken> encode(std::string_view word, Workspace& workspace) const;

 private:
  /// Notes the pairs of characters that merges join, unless tokens do not tell which characters they were merged from
  /// or characters may vanish.
  void find_joints();
  /// End of the part of `word` that begins at `begin`: the next place where two known characters stand side by side
  /// that no merge joins, or the word's end.
  size_t end_of_part(std::string_view word, size_t begin) const;
  std::span<const WordToken> encode_part(std::string_view part, Workspace& workspace) const;
  std::span<const WordToken> encode_anew(std::string_view word, Workspace& workspace) const;
  /// False if a byte has no token: then sizes count characters of the byte map, not bytes.
  bool start_with_bytes(std::string_view word, std::vector<BpeSymbol>& symbols) const;
  void start_with_characters(std::string_view word, std::vector<BpeSymbol>& symbols) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  Options options_;
  bool has_joints_ = false;
  MergeTable joints_;                        ///< pairs of code points that stand in the middle of a merge
  std::array<int32_t, 256> byte_ids_{};      ///< of one-byte texts; -1: none
  std::array<int32_t, 256> fallback_ids_{};  ///< of "<0xAB>"; -1: none
};

}  // namespace moe
