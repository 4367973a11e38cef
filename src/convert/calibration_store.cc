#include "convert/calibration_store.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "checkpoint/safetensors.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTensors = ".safetensors";
constexpr const char* kFacts = ".json";
constexpr const char* kDigest = "xxh3_128";

fs::path file_of(const fs::path& folder, const std::string& name, const char* kind) {
  return folder / (name + kind);
}

/// Of all that an entry holds.
std::string digest_of_entry(const std::string& tensors_digest, const json& facts) {
  return xxh3_hex(concat(tensors_digest, "\n", facts.dump()));
}

/// Throws InvalidArgument where the files are not what was written.
std::optional<CalibrationStore::Entry> read_entry(const fs::path& folder, const std::string& name) {
  const std::optional<std::string> text = read_file_if_there(file_of(folder, name, kFacts));
  if (!text) return std::nullopt;
  CalibrationStore::Entry entry;
  entry.facts = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!entry.facts.is_object() || !entry.facts.contains(kDigest)) throw InvalidArgument("is cut off");
  const json digest = entry.facts[kDigest];
  entry.facts.erase(kDigest);
  const fs::path path = file_of(folder, name, kTensors);
  if (digest != digest_of_entry(xxh3_hex_of_file(path), entry.facts))
    throw InvalidArgument(concat(path.string(), " or the .json beside it does not hold what was written"));
  const SafetensorsFile file(path);
  for (const SafetensorsEntry& stored : file.header().entries)
    entry.tensors.emplace_back(stored.name, file.tensor(stored.name).clone());
  return entry;
}

void write_entry(const fs::path& folder, const std::string& name, const CalibrationStore::Entry& entry) {
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [tensor_name, tensor] : entry.tensors)
    specs.push_back({tensor_name, tensor.scalar_type(), tensor.sizes().vec()});
  SafetensorsWriter writer(file_of(folder, name, kTensors), specs);
  for (const auto& [tensor_name, tensor] : entry.tensors) writer.write(tensor_name, tensor);
  writer.finish();
  json facts = entry.facts;
  facts[kDigest] = digest_of_entry(writer.digest(), entry.facts);
  write_file_atomically(file_of(folder, name, kFacts), facts.dump(1) + "\n");
}

}  // namespace

const at::Tensor& CalibrationStore::Entry::tensor(const std::string& name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const auto& named) { return named.first == name; });
  MOE_CHECK(found != tensors.end(), "a stored calibration has no tensor " + name);
  return found->second;
}

std::optional<CalibrationStore::Entry> CalibrationStore::read(const std::string& digest,
                                                              const std::string& name) const {
  if (folder_.empty()) return std::nullopt;
  try {
    return read_entry(folder_ / digest, name);
  } catch (const std::exception& error) {
    log_warning(concat("event=calibration_damaged calibration=", digest, " part=", name, " reason=\"", error.what(),
                       "\"; it is made again"));
    return std::nullopt;
  }
}

void CalibrationStore::write(const std::string& digest, const std::string& name, const Entry& entry) const {
  if (folder_.empty()) return;
  const fs::path folder = folder_ / digest;
  try {
    make_directories(folder);
    std::optional<FileLock> lock;
    try {
      lock.emplace(file_of(folder, name, ".lock"));
    } catch (const InvalidArgument&) {
      return;  // another gang writes here, and what it writes is the same
    }
    write_entry(folder, name, entry);
    log_info(concat("event=calibration_kept calibration=", digest, " part=", name));
  } catch (const StorageError& error) {
    log_warning(concat("event=calibration_not_kept calibration=", digest, " part=", name, " reason=\"", error.what(),
                       "\"; a later conversion makes it again"));
  }
}

}  // namespace moe
