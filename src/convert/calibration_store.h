#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe {

/// Calibrations that conversions leave to later ones: <folder>/<digest>/<name>.safetensors, and beside it <name>.json
/// with what the tensors are of and the XXH3 of both, written last. Either appears whole or not at all, and nothing
/// here decides a result: what is missing, damaged or cannot be written only has to be made again. One gang writes a
/// part at a time, and what another would write is the same. Not collective.
class CalibrationStore {
 public:
  /// An empty folder keeps nothing.
  explicit CalibrationStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  struct Entry {
    nlohmann::json facts;  ///< an object
    std::vector<std::pair<std::string, at::Tensor>> tensors;

    const at::Tensor& tensor(const std::string& name) const;
  };

  /// Nothing if it is not there, or, with a warning, if it is not what was written.
  std::optional<Entry> read(const std::string& digest, const std::string& name) const;
  /// By one rank of a gang. A failure is a warning; while another gang writes the same part, nothing is done.
  void write(const std::string& digest, const std::string& name, const Entry& entry) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace moe
