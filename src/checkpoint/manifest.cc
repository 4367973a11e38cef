#include "checkpoint/manifest.h"

#include <algorithm>
#include <span>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 20;
constexpr char kFormat[] = "moe-checkpoint-1";

ManifestTensor tensor_from_json(const nlohmann::json& json) {
  return {json.at("dtype").get<std::string>(), json.at("shape").get<std::vector<int64_t>>(), json.at("file").get<std::string>(),
          json.at("xxh3_128").get<std::vector<std::string>>()};
}

}  // namespace

nlohmann::json to_json(const ManifestTensor& tensor) {
  return {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"file", tensor.file}, {"xxh3_128", tensor.chunks}};
}

nlohmann::json Manifest::to_json() const {
  nlohmann::json all = nlohmann::json::object();
  for (const auto& [name, tensor] : tensors) all[name] = moe::to_json(tensor);
  return {{"format", kFormat}, {"step", step}, {"attempt", attempt}, {"scalars", scalars}, {"files", files}, {"tensors", all}};
}

Manifest Manifest::read(const std::filesystem::path& folder) {
  const std::string where = (folder / kManifestName).string();
  try {
    const nlohmann::json json = nlohmann::json::parse(read_file(folder / kManifestName));
    if (json.at("format") != kFormat) throw Corruption(concat(where, ": format is ", json.at("format").dump(), ", expected ", kFormat));
    Manifest manifest;
    manifest.step = json.at("step").get<int64_t>();
    manifest.attempt = json.at("attempt").get<int>();
    manifest.scalars = json.at("scalars");
    manifest.files = json.at("files").get<std::map<std::string, uint64_t>>();
    for (const auto& [name, tensor] : json.at("tensors").items()) manifest.tensors[name] = tensor_from_json(tensor);
    for (const auto& [file, bytes] : manifest.files) {
      std::error_code error;
      const auto actual = std::filesystem::file_size(folder / file, error);
      if (error) throw Corruption(concat((folder / file).string(), " is missing"));
      if (actual != bytes) throw Corruption(concat((folder / file).string(), " has ", actual, " bytes, the manifest says ", bytes));
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
