#include "checkpoint/weight_files.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "checkpoint/dtypes.h"
#include "checkpoint/weight_file_names.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/json_text.h"
#include "common/log.h"
#include "common/python_json.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "model.";  ///< of what a causal model has in common with its base model
constexpr std::string_view kHead = "lm_head.";
constexpr char kHeadWeight[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";

/// Which file each tensor is in by the index, with every check of the index.
std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  const std::string where = path.string();
  const nlohmann::json index = parse_python_json(read_file(path), where);
  if (!index.is_object()) throw Corruption(concat(where, " is ", quoted_json(index), "; expected an object"));
  if (!index.contains("weight_map")) throw Corruption(where + ": `weight_map` is missing");
  if (!index["weight_map"].is_object() || index["weight_map"].empty()) {
    throw Corruption(concat(where, ": `weight_map` is ", quoted_json(index["weight_map"]),
                            "; expected an object of tensor names and files"));
  }
  if (index.contains("metadata") && !index["metadata"].is_object()) {
    throw Corruption(concat(where, ": `metadata` is ", quoted_json(index["metadata"]), "; expected an object"));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string())
      throw Corruption(concat(where, ": the file of '", name, "' is ", quoted_json(file), "; expected a name"));
    const std::string shard = file.get<std::string>();
    const bool is_plain = !shard.empty() && shard != "." && shard != ".." && fs::path(shard).filename() == shard;
    if (!is_plain) throw Corruption(concat(where, ": '", shard, "' is not a plain file name"));
    shard_of[name] = shard;
  }
  return shard_of;
}

/// Why there is no file of weights.
[[noreturn]] void throw_no_weights(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("pytorch_model") || entry.path().extension() == ".pth") {
      throw InvalidArgument(
          concat(directory.string(), ": ", name,
                 " is a pickle, which can run code when it is loaded; convert it to safetensors first"));
    }
    if (name.starts_with(kShardPrefix) && entry.path().extension() == kWeightsExtension) {
      throw InvalidArgument(concat(directory.string(), ": ", name, " is a shard, and there is no ", kWeightsIndex,
                                   ", which says which shards there are"));
    }
  }
  throw InvalidArgument(concat(directory.string(), ": neither ", kSingleWeights, " nor ", kWeightsIndex, " is there"));
}

/// Buffers that old programs saved and everybody computes.
bool is_ignored(const std::string& name) {
  constexpr std::string_view kSuffix = ".rotary_emb.inv_freq";
  return name.size() > kSuffix.size() && name.ends_with(kSuffix);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return nlohmann::json(shape).dump();
}

bool is_loadable(const SafetensorsEntry& entry) {
  const std::optional<at::ScalarType> type = scalar_type_of(entry.dtype);
  return type && is_weight_type(*type);
}

/// Whether both hold the same numbers, whatever their types. A block of rows at a time.
bool has_same_values(const WeightFiles::Place& a, const WeightFiles::Place& b) {
  if (a.entry->shape != b.entry->shape) return false;
  bool is_same = true;
  if (a.entry->dtype == b.entry->dtype) {
    const auto left = a.file->bytes(*a.entry), right = b.file->bytes(*b.entry);
    is_same = left.size() == right.size() && (left.empty() || std::memcmp(left.data(), right.data(), left.size()) == 0);
  } else if (is_loadable(*a.entry) && is_loadable(*b.entry)) {
    const at::Tensor left = a.file->tensor(a.entry->name).flatten(), right = b.file->tensor(b.entry->name).flatten();
    constexpr int64_t kBlock = int64_t{1} << 20;
    for (int64_t first = 0; first < left.numel() && is_same; first += kBlock) {
      const int64_t count = std::min(kBlock, left.numel() - first);
      is_same = left.narrow(0, first, count).to(at::kDouble).equal(right.narrow(0, first, count).to(at::kDouble));
    }
  } else {
    is_same = false;
  }
  a.file->release(a.entry->name);
  b.file->release(b.entry->name);
  return is_same;
}

/// The place of a tensor that contradicts another place of it.
std::string contradiction(const std::string& name, const WeightFiles::Place& kept, const WeightFiles::Place& other) {
  if (other.entry->name == kHeadWeight && name == kEmbedding) {
    return concat(kHeadWeight, " (tie_word_embeddings is true and it differs from the embedding)");
  }
  return concat(other.entry->name, " of ", other.file->path().filename().string(), " (it differs from that of ",
                kept.file->path().filename().string(), ")");
}

}  // namespace

WeightFiles::WeightFiles(const fs::path& directory) : directory_(directory) {
  if (is_there(directory / kSingleWeights)) {
    files_.push_back(std::make_shared<SafetensorsFile>(directory / kSingleWeights));
    // As transformers does. Both are there where a model was saved again in another number of files.
    std::error_code ignored;
    if (fs::exists(directory / kWeightsIndex, ignored))
      log_info(concat("event=index_not_read file=", (directory / kWeightsIndex).string(), " reason=\"", kSingleWeights,
                      " is beside it\""));
    return;
  }
  if (!is_there(directory / kWeightsIndex)) throw_no_weights(directory);
  open_shards();
}

void WeightFiles::open_shards() {
  const fs::path index = directory_ / kWeightsIndex;
  weight_map_ = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map_) shards.insert(shard);
  for (const std::string& shard : shards) {
    if (!is_there(directory_ / shard))
      throw InvalidArgument(concat(index.string(), " names ", shard, ", which is not in the folder"));
    files_.push_back(std::make_shared<SafetensorsFile>(directory_ / shard));
  }
}

std::vector<WeightFiles::Place> WeightFiles::places(const std::vector<std::string>& names) const {
  std::vector<Place> found;
  for (const std::string& name : names) {
    for (const auto& file : files_) {
      if (const SafetensorsEntry* const entry = file->find(name)) found.push_back({file.get(), entry});
    }
  }
  return found;
}

std::string WeightFiles::index_problem(const std::string& stored) const {
  if (weight_map_.empty() || weight_map_.contains(stored)) return "";
  return concat(" (it is in a shard, but ", (directory_ / kWeightsIndex).string(), " does not name it)");
}

WeightFiles::Problems WeightFiles::find(const std::vector<Expected>& expected, bool is_tied) {
  bool has_prefix = false, has_head = false;
  for (const auto& file : files_) {
    for (const SafetensorsEntry& entry : file->header().entries) {
      has_prefix = has_prefix || entry.name.starts_with(kPrefix);
      has_head = has_head || entry.name.starts_with(kHead);
    }
  }
  const bool is_bare = !has_prefix && !has_head;
  Problems problems;
  std::set<const SafetensorsEntry*> known;
  for (const Expected& spec : expected) {
    std::vector<std::string> names{is_bare && spec.name.starts_with(kPrefix) ? spec.name.substr(kPrefix.size())
                                                                             : spec.name};
    if (is_tied && spec.name == kEmbedding) names.emplace_back(kHeadWeight);
    const std::vector<Place> found = places(names);
    for (const Place& place : found) known.insert(place.entry);
    if (found.empty()) {
      problems.missing.push_back(spec.name);
      continue;
    }
    const Place& place = places_[spec.name] = found.front();
    const SafetensorsEntry& entry = *place.entry;
    if (const std::string problem = index_problem(entry.name); !problem.empty())
      problems.missing.push_back(spec.name + problem);
    if (entry.shape != spec.shape) {
      problems.mismatched.push_back(
          concat(entry.name, " is ", shape_text(entry.shape), ", expected ", shape_text(spec.shape)));
    }
    if (!is_loadable(entry)) {
      problems.mismatched.push_back(concat(entry.name, " has dtype ", entry.dtype, ", expected F32, F16, BF16 or F64"));
    }
    for (size_t i = 1; i < found.size(); ++i) {
      if (!has_same_values(place, found[i])) problems.unexpected.push_back(contradiction(spec.name, place, found[i]));
    }
  }
  for (const auto& file : files_) {
    for (const SafetensorsEntry& entry : file->header().entries) {
      if (!known.contains(&entry) && !is_ignored(entry.name)) problems.unexpected.push_back(entry.name);
    }
  }
  if (!has_prefix && has_head && !problems.missing.empty()) {
    problems.hint =
        concat("names without `", kPrefix, "` are read only where no ", kHeadWeight,
               " stands beside them (transformers 4 calls such files corrupted); save the model with its full names");
  }
  return problems;
}

const WeightFiles::Place& WeightFiles::place_of(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw InvalidArgument(concat(directory_.string(), ": no tensor '", name, "'"));
  return found->second;
}

}  // namespace moe
