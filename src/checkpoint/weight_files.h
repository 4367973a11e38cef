#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace moe {

/// The safetensors files of a model directory and where in them each expected tensor stands. What transformers 4.57 and
/// 5 both load to one function is found as they find it; what they read differently is a problem that says so. The
/// rules:
/// - model.safetensors, where it is there, is read alone; an index beside it is left aside.
/// - Of an index counts which shards there are and that a tensor is named at all, not in which shard it is said to be.
/// - A tensor that stands twice (in two shards, or as head and embedding of a tied model) must have one value.
/// - A tied model may have its head alone.
/// - Names may all lack the `model.` of a causal model, if no head stands beside them.
/// Used by ModelDirectory; not thread-safe while find() runs.
class WeightFiles {
 public:
  /// A tensor as it is stored.
  struct Place {
    const SafetensorsFile* file = nullptr;
    const SafetensorsEntry* entry = nullptr;
  };
  /// A tensor that must be there, under the name that files have for it.
  struct Expected {
    std::string name;
    std::vector<int64_t> shape;
  };
  /// Names that do not fit, each list in the order in which it was found.
  struct Problems {
    std::vector<std::string> missing, unexpected, mismatched;
    std::string hint;  ///< why so much is missing, where that can be told

    bool empty() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  };

  WeightFiles() = default;
  /// Opens the files. Throws InvalidArgument or Corruption that names the file: none is there, one is a link to nothing
  /// or a Git LFS pointer, the index names one that is not there.
  explicit WeightFiles(const std::filesystem::path& directory);

  /// Finds these tensors, and what else there is. Throws nothing for what does not fit.
  Problems find(const std::vector<Expected>& expected, bool is_tied);
  /// Of a tensor that find() was asked for. Throws InvalidArgument if it was not found.
  const Place& place_of(const std::string& name) const;

  const std::vector<std::shared_ptr<SafetensorsFile>>& files() const { return files_; }

 private:
  void open_shards();
  /// Where one of these names stands, in the order of names.
  std::vector<Place> places(const std::vector<std::string>& names) const;
  std::string index_problem(const std::string& stored) const;

  std::filesystem::path directory_;
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::map<std::string, std::string> weight_map_;  ///< of the index; empty for a single file
  std::map<std::string, Place> places_;            ///< by expected name
};

}  // namespace moe
