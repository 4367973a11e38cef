#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe {

/// A tokenizer.json, read in one pass: its two large members, model.vocab and model.merges, as plain rows, the rest as
/// a tree. A tree of all of it would take most of the time that loading takes.
struct TokenizerJsonDocument {
  nlohmann::json rest;  ///< an empty object or list stands where a row was taken out
  bool has_vocabulary = false, has_merges = false;
  std::vector<std::pair<std::string, int64_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
};

/// Ids are from 0 to `largest id of an int32`. Throws Corruption, starting with `where`, for what is not JSON (as
/// parse_json does: also for a key that stands twice, a NUL, deep nesting), an id that is no such integer, and a merge
/// that is neither "l r" nor ["l", "r"].
TokenizerJsonDocument parse_tokenizer_json_document(std::string_view bytes, const std::string& where);

}  // namespace moe
