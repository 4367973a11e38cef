#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moe {

/// One tensor of a checkpoint, as its manifest tells it.
struct ManifestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string file;
  std::vector<std::string> chunks;  ///< XXH3-128 of each 64 MiB of its bytes
};

/// What a checkpoint folder holds; its presence and agreement with the files make the folder a checkpoint.
struct Manifest {
  int64_t step = 0;
  int attempt = 0;
  nlohmann::json scalars;
  std::map<std::string, uint64_t> files;          ///< name -> bytes
  std::map<std::string, ManifestTensor> tensors;  ///< by logical name

  /// The file's text, with a digest of its own.
  std::string to_text() const;
  /// Throws Corruption that names the file and what is wrong.
  static Manifest read(const std::filesystem::path& folder);
};

inline constexpr char kManifestName[] = "MANIFEST.json";

nlohmann::json to_json(const ManifestTensor& tensor);
ManifestTensor tensor_from_json(const nlohmann::json& json);

/// Digests of each 64 MiB of a contiguous tensor's bytes.
std::vector<std::string> chunk_digests(const at::Tensor& tensor);

}  // namespace moe
