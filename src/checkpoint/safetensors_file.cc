#include "checkpoint/dtypes.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"

namespace moe {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), mapping_(std::make_shared<MappedFile>(path)) {
  const std::span<const std::byte> bytes = mapping_->bytes();
  header_ = parse_safetensors_header(bytes, bytes.size(), path.string());
  for (size_t i = 0; i < header_.entries.size(); ++i) index_[header_.entries[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  return mapping_->bytes().subspan(header_.data_offset + entry.begin, entry.end - entry.begin);
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) throw InvalidArgument(concat(path_.string(), ": no tensor '", name, "'"));
  const std::optional<at::ScalarType> type = scalar_type_of(entry->dtype);
  if (!type)
    throw InvalidArgument(
        concat(path_.string(), ": tensor '", name, "' has dtype ", entry->dtype, ", which is not supported"));
  const std::span<const std::byte> data = bytes(*entry);
  const at::TensorOptions options(*type);
  if (data.empty()) return at::empty(entry->shape, options);
  if (reinterpret_cast<uintptr_t>(data.data()) % c10::elementSize(*type) != 0) {
    at::Tensor copy = at::empty(entry->shape, options);
    std::memcpy(copy.mutable_data_ptr(), data.data(), data.size());
    return copy;
  }
  // The tensor keeps the mapping alive; nobody may write to it.
  return at::from_blob(
      const_cast<std::byte*>(data.data()), entry->shape, [mapping = mapping_](void*) {}, options);
}

void SafetensorsFile::release(const std::string& name) const {
  if (const SafetensorsEntry* entry = find(name)) mapping_->release(bytes(*entry));
}

}  // namespace moe
