#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing/safetensors_bytes.h"  // of which files are made

/// The corpus of wrong input: for each format, files made from a good one by a named change, each with what its refusal
/// must say. tests/bad_input/corpus_test.cc opens every one in the process (the sanitizers watch), cli_test.cc a sample
/// by the program.
namespace moe::testing {

struct BadFile {
  std::string name;  ///< the change, for example "hidden_size_negative"
  std::string file;  ///< the file of the directory that it stands in for, whose path the message must hold
  std::string bytes;
  std::vector<std::string> says;  ///< what the message must hold besides: field, value
};

/// Good directories that the bad files go into, one file each at a time.
struct GoodDirectories {
  std::filesystem::path single;   ///< config.json, model.safetensors, tokenizer.model
  std::filesystem::path sharded;  ///< config.json, two shards and their index
  std::filesystem::path json;     ///< tokenizer.json and tokenizer_config.json instead of tokenizer.model
};
GoodDirectories write_good_directories(const std::filesystem::path& folder);

/// Rules of the header: refused before any tensor is looked at.
std::vector<BadFile> bad_safetensors_headers();
/// Files whose header is right and whose tensors are not those of the model.
std::vector<BadFile> bad_safetensors_tensors(const std::filesystem::path& good);
std::vector<BadFile> bad_indexes(const std::filesystem::path& good);
std::vector<BadFile> bad_configs();
std::vector<BadFile> bad_tokenizer_models();
std::vector<BadFile> bad_tokenizer_jsons();
/// tokenizer_config.json beside a good tokenizer.json.
std::vector<BadFile> bad_tokenizer_configs();

/// Changes that break JSON itself, whatever it says, of a good file's text. Python's JSON (common/python_json.h) has
/// NaN for a number.
enum class Json { kStrict, kOfPython };
std::vector<BadFile> broken_json(const std::string& file, const std::string& good, Json kind);

/// What stands in the good directories.
nlohmann::json good_config();
nlohmann::json good_tokenizer_json();
nlohmann::json good_tokenizer_config();
std::string good_tokenizer_model();
/// A good file, whose ids begin at 300: of another model.
std::string tokenizer_model_of_a_larger_model();

}  // namespace moe::testing
