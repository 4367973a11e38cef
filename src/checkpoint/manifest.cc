#include "checkpoint/manifest.h"

#include <algorithm>
#include <span>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 20;
constexpr char kFormat[] = "moe-checkpoint-1";

/// Digest of everything else in the manifest: a flipped bit in a scalar is found too.
std::string digest_of(nlohmann::json manifest) {
  manifest.erase("digest");
  return xxh3_hex(manifest.dump());
}

}  // namespace

ManifestTensor tensor_from_json(const nlohmann::json& json) {
  return {json.at("dtype").get<std::string>(), json.at("shape").get<std::vector<int64_t>>(),
          json.at("file").get<std::string>(), json.at("xxh3_128").get<std::vector<std::string>>()};
}

nlohmann::json to_json(const ManifestTensor& tensor) {
  return {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"file", tensor.file}, {"xxh3_128", tensor.chunks}};
}

std::string Manifest::to_text() const {
  nlohmann::json all = nlohmann::json::object();
  for (const auto& [name, tensor] : tensors) all[name] = moe::to_json(tensor);
  nlohmann::json json = {{"format", kFormat},  {"step", step},   {"attempt", attempt},
                         {"scalars", scalars}, {"files", files}, {"tensors", all}};
  json["digest"] = digest_of(json);
  return json.dump() + "\n";
}

Manifest Manifest::read(const std::filesystem::path& folder) {
  const std::string where = (folder / kManifestName).string();
  try {
    const nlohmann::json json = nlohmann::json::parse(read_file(folder / kManifestName));
    if (json.at("format") != kFormat)
      throw Corruption(concat(where, ": format is ", json.at("format").dump(), ", expected ", kFormat));
    if (json.at("digest") != digest_of(json))
      throw Corruption(where + ": the contents do not match the manifest's own digest");
    Manifest manifest;
    manifest.step = json.at("step").get<int64_t>();
    manifest.attempt = json.at("attempt").get<int>();
    manifest.scalars = json.at("scalars");
    manifest.files = json.at("files").get<std::map<std::string, uint64_t>>();
    for (const auto& [name, tensor] : json.at("tensors").items()) {
      manifest.tensors[name] = tensor_from_json(tensor);
      const std::string& file = manifest.tensors[name].file;
      if (!manifest.files.contains(file))
        throw Corruption(concat(where, ": tensor '", name, "' is in ", file, ", which is not listed"));
    }
    for (const auto& [file, bytes] : manifest.files) {
      if (std::filesystem::path(file).filename() != file)
        throw Corruption(concat(where, ": '", file, "' is not a plain file name"));
      std::error_code error;
      const auto actual = std::filesystem::file_size(folder / file, error);
      if (error) throw Corruption(concat((folder / file).string(), " is missing"));
      if (actual != bytes)
        throw Corruption(concat((folder / file).string(), " has ", actual, " bytes, the manifest says ", bytes));
    }
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    throw Corruption(concat(where, ": ", error.what()));
  }
}

std::vector<std::string> chunk_digests(const at::Tensor& tensor) {
  std::vector<std::string> digests;
  std::span<const std::byte> rest(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes());
  while (!rest.empty()) {
    const size_t size = std::min(rest.size(), kChunkBytes);
    digests.push_back(xxh3_hex(rest.first(size)));
    rest = rest.subspan(size);
  }
  return digests;
}

}  // namespace moe
