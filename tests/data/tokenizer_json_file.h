#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing/paths.h"

/// Files of the kind tokenizer.json, made by tests.
namespace moe::testing {

/// Small real ones, by family.
inline const std::filesystem::path kFamilies =
    std::filesystem::path(source_dir()) / "tests/testing/fixtures/tokenizers";

inline const nlohmann::json kByteLevel = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", true}};

/// A byte-level file with the given tokens (as the file spells them) and merges.
inline nlohmann::json byte_level_file(const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
  nlohmann::json file = {{"version", "1.0"},          {"added_tokens", nlohmann::json::array()},
                         {"normalizer", nullptr},     {"pre_tokenizer", kByteLevel},
                         {"post_processor", nullptr}, {"decoder", kByteLevel}};
  file["model"] = {{"type", "BPE"}, {"vocab", nlohmann::json::object()}, {"merges", merges}, {"unk_token", nullptr}};
  for (size_t id = 0; id < tokens.size(); ++id) file["model"]["vocab"][tokens[id]] = id;
  return file;
}

inline nlohmann::json added(int id, const std::string& content, const std::vector<std::string>& flags = {}) {
  nlohmann::json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                          {"rstrip", false}, {"normalized", false}, {"special", false}};
  for (const std::string& flag : flags) token[flag] = true;
  return token;
}

}  // namespace moe::testing
