#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/added_tokens.h"

namespace moe {

/// What tokenizer_config.json, special_tokens_map.json and added_tokens.json say about the tokens of the tokenizer file
/// beside them, as transformers 4.57 reads them (5 reads the same): where tokenizer_config.json has
/// `added_tokens_decoder`, nothing is read from the other two; else special_tokens_map.json goes before
/// tokenizer_config.json and added_tokens.json lists the tokens. Names that a class of transformers has for itself
/// where no file has one are not known here.
struct TokenizerSettings {
  /// A role's token: absent where no file has the role, without content where a file says null.
  std::optional<AddedToken> bos, eos, unknown;
  /// Tokens that have a role, in the order in which they are added: bos, eos, unk, sep, pad, cls, mask, further ones.
  /// Special.
  std::vector<AddedToken> special;
  /// Tokens of `added_tokens_decoder` or added_tokens.json, by id.
  std::vector<AddedToken> added;
  std::optional<bool> adds_bos, adds_eos;  ///< add_bos_token, add_eos_token
  std::optional<bool> is_legacy;  ///< of SentencePiece: whether each stretch between special tokens gets a prefix
  bool adds_prefix_space = true;  ///< of SentencePiece, if it is not legacy
  std::string tokenizer_class;    ///< of transformers
  bool has_files = false;         ///< whether there is any of the three

  /// Throws Corruption that names file, key and value.
  static TokenizerSettings read(const std::filesystem::path& directory);

  /// A role's content, or `otherwise` where no file has the role.
  static std::string text_of(const std::optional<AddedToken>& role, const std::string& otherwise) {
    return role ? role->content : otherwise;
  }
  /// Of tokens: one line that differs when what they do does.
  static std::string describe(const std::vector<AddedToken>& tokens);
};

}  // namespace moe
