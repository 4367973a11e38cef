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

/// Consecutive elements of a logical tensor in one file.
struct ManifestPart {
  int64_t first = 0;  ///< element of the logical tensor, row by row
  int64_t count = 0;
  std::string file;
  std::vector<std::string> chunks;  ///< XXH3-128 of each 64 MiB of its bytes
};

/// One logical tensor of a checkpoint, as its manifest tells it: in one part, or in several of several ranks.
struct ManifestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<ManifestPart> parts;  ///< by their first elements; together they are all of it
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

/// Adds the parts of `tensor` to those that stand under the name. Throws Internal where two hold the same elements, or
/// both all of an empty tensor, or type and shape differ.
void add_parts(std::map<std::string, ManifestTensor>& tensors, const std::string& name, const ManifestTensor& tensor);

/// Throws Internal unless the parts of every tensor are all of it.
void require_complete(const std::map<std::string, ManifestTensor>& tensors);
/// Throws Internal unless the tensor that a rank holds under this name, and leaves to others, is among those written,
/// in its type and shape.
void require_written(const std::map<std::string, ManifestTensor>& tensors, const std::string& name,
                     const ManifestTensor& held);

/// Digests of each 64 MiB of a contiguous tensor's bytes.
std::vector<std::string> chunk_digests(const at::Tensor& tensor);
/// Whether the chunks that hold elements [first, first + count) of a contiguous tensor are those of `digests`, which
/// are of all its chunks: who reads a part verifies that part.
bool chunks_match(const at::Tensor& tensor, const std::vector<std::string>& digests, int64_t first, int64_t count);

}  // namespace moe
