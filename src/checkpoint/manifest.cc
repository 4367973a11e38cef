#include "checkpoint/manifest.h"

#include <algorithm>
#include <span>

#include "checkpoint/tensor_range.h"
#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 20;
constexpr char kFormat[] = "moe-checkpoint-1";
/// With tensors that lie in several files, which the readers of the first format do not know.
constexpr char kFormatOfParts[] = "moe-checkpoint-2";

/// Digest of everything else in the manifest: a flipped bit in a scalar is found too.
std::string digest_of(nlohmann::json manifest) {
  manifest.erase("digest");
  return xxh3_hex(manifest.dump());
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

bool is_in_one_part(const ManifestTensor& tensor) {
  return tensor.parts.size() == 1 && tensor.parts.front().first == 0 &&
         tensor.parts.front().count == elements_of(tensor.shape);
}

}  // namespace

ManifestTensor tensor_from_json(const nlohmann::json& json) {
  ManifestTensor tensor{json.at("dtype").get<std::string>(), json.at("shape").get<std::vector<int64_t>>(), {}};
  if (!json.contains("parts")) {
    tensor.parts.push_back({0, elements_of(tensor.shape), json.at("file").get<std::string>(),
                            json.at("xxh3_128").get<std::vector<std::string>>()});
    return tensor;
  }
  for (const nlohmann::json& part : json.at("parts")) {
    tensor.parts.push_back({part.at("first").get<int64_t>(), part.at("count").get<int64_t>(),
                            part.at("file").get<std::string>(), part.at("xxh3_128").get<std::vector<std::string>>()});
  }
  return tensor;
}

nlohmann::json to_json(const ManifestTensor& tensor) {
  nlohmann::json json = {{"dtype", tensor.dtype}, {"shape", tensor.shape}};
  if (is_in_one_part(tensor)) {
    json["file"] = tensor.parts.front().file;
    json["xxh3_128"] = tensor.parts.front().chunks;
    return json;
  }
  json["parts"] = nlohmann::json::array();
  for (const ManifestPart& part : tensor.parts) {
    json["parts"].push_back(
        {{"first", part.first}, {"count", part.count}, {"file", part.file}, {"xxh3_128", part.chunks}});
  }
  return json;
}

void add_parts(std::map<std::string, ManifestTensor>& tensors, const std::string& name, const ManifestTensor& tensor) {
  const auto [known, is_new] = tensors.emplace(name, tensor);
  if (is_new) return;
  ManifestTensor& all = known->second;
  MOE_CHECK(all.dtype == tensor.dtype && all.shape == tensor.shape, "'", name, "' is written in two types or shapes");
  all.parts.insert(all.parts.end(), tensor.parts.begin(), tensor.parts.end());
  std::sort(all.parts.begin(), all.parts.end(),
            [](const ManifestPart& a, const ManifestPart& b) { return a.first < b.first; });
  for (size_t i = 1; i < all.parts.size(); ++i) {
    // A part without elements is all of an empty tensor, which one rank writes as it does any other.
    const ManifestPart &before = all.parts[i - 1], &after = all.parts[i];
    const int64_t end = before.first + before.count;
    MOE_CHECK(end <= after.first && before.first < after.first, "two ranks wrote '", name, "': elements from ",
              before.first, " to ", end, ", and from ", after.first, " to ", after.first + after.count);
  }
}

void require_complete(const std::map<std::string, ManifestTensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    int64_t end = 0;
    for (const ManifestPart& part : tensor.parts) {
      MOE_CHECK(part.first == end, "nobody wrote elements ", end, " to ", part.first, " of '", name, "'");
      end += part.count;
    }
    const int64_t all = elements_of(tensor.shape);
    MOE_CHECK(end == all, "nobody wrote elements ", end, " to ", all, " of '", name, "'");
  }
}

void require_written(const std::map<std::string, ManifestTensor>& tensors, const std::string& name,
                     const ManifestTensor& held) {
  const auto found = tensors.find(name);
  MOE_CHECK(found != tensors.end(), "nobody wrote '", name, "': none of its elements 0 to ", elements_of(held.shape));
  MOE_CHECK(found->second.dtype == held.dtype && found->second.shape == held.shape, "'", name,
            "' is written in another type or shape than it is held in");
}

std::string Manifest::to_text() const {
  nlohmann::json all = nlohmann::json::object();
  bool has_parts = false;
  for (const auto& [name, tensor] : tensors) {
    all[name] = moe::to_json(tensor);
    has_parts |= !is_in_one_part(tensor);
  }
  nlohmann::json json = {{"format", has_parts ? kFormatOfParts : kFormat},
                         {"step", step},
                         {"attempt", attempt},
                         {"scalars", scalars},
                         {"files", files},
                         {"tensors", all}};
  json["digest"] = digest_of(json);
  return json.dump() + "\n";
}

Manifest Manifest::read(const std::filesystem::path& folder) {
  const std::string where = (folder / kManifestName).string();
  try {
    const nlohmann::json json = nlohmann::json::parse(read_file(folder / kManifestName));
    if (json.at("format") != kFormat && json.at("format") != kFormatOfParts) {
      throw Corruption(
          concat(where, ": format is ", json.at("format").dump(), ", expected ", kFormat, " or ", kFormatOfParts));
    }
    if (json.at("digest") != digest_of(json))
      throw Corruption(where + ": the contents do not match the manifest's own digest");
    Manifest manifest;
    manifest.step = json.at("step").get<int64_t>();
    manifest.attempt = json.at("attempt").get<int>();
    manifest.scalars = json.at("scalars");
    manifest.files = json.at("files").get<std::map<std::string, uint64_t>>();
    for (const auto& [name, tensor] : json.at("tensors").items()) {
      manifest.tensors[name] = tensor_from_json(tensor);
      if (manifest.tensors[name].parts.empty()) throw Corruption(concat(where, ": tensor '", name, "' is in no file"));
      for (const ManifestPart& part : manifest.tensors[name].parts) {
        if (!manifest.files.contains(part.file))
          throw Corruption(concat(where, ": tensor '", name, "' is in ", part.file, ", which is not listed"));
      }
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
  std::span<const std::byte> rest = bytes_of(tensor);
  while (!rest.empty()) {
    const size_t size = std::min(rest.size(), kChunkBytes);
    digests.push_back(xxh3_hex(rest.first(size)));
    rest = rest.subspan(size);
  }
  return digests;
}

bool chunks_match(const at::Tensor& tensor, const std::vector<std::string>& digests, int64_t first, int64_t count) {
  const std::span<const std::byte> bytes = bytes_of(tensor);
  if (digests.size() != (bytes.size() + kChunkBytes - 1) / kChunkBytes) return false;
  const size_t begin = static_cast<size_t>(first) * tensor.element_size(),
               end = begin + static_cast<size_t>(count) * tensor.element_size();
  for (size_t chunk = begin / kChunkBytes; chunk * kChunkBytes < end; ++chunk) {
    const std::span<const std::byte> rest = bytes.subspan(chunk * kChunkBytes);
    if (xxh3_hex(rest.first(std::min(rest.size(), kChunkBytes))) != digests[chunk]) return false;
  }
  return true;
}

}  // namespace moe
