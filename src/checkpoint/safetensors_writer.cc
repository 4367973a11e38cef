#include <nlohmann/json.hpp>
#include <numeric>

#include "checkpoint/dtypes.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"

namespace moe {
namespace {

uint64_t bytes_of(const SafetensorsWriter::Spec& spec) {
  return std::accumulate(spec.shape.begin(), spec.shape.end(), uint64_t{c10::elementSize(spec.dtype)}, std::multiplies<>());
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<Spec> specs, std::map<std::string, std::string> metadata)
    : specs_(std::move(specs)), file_(std::make_unique<AtomicFile>(std::move(path))) {
  metadata.emplace("format", "pt");
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Spec& spec : specs_) {
    const uint64_t end = offset + bytes_of(spec);
    MOE_CHECK(!header.contains(spec.name), "tensor '", spec.name, "' is to be written twice");
    header[spec.name] = {{"dtype", dtype_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  file_->write(std::as_bytes(std::span(&length, 1)));
  file_->write(text);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, const at::Tensor& tensor) {
  MOE_CHECK(next_ < specs_.size() && specs_[next_].name == name, "tensor '", name, "' is not the next one to write");
  const Spec& spec = specs_[next_++];
  MOE_CHECK(tensor.scalar_type() == spec.dtype && tensor.sizes() == at::IntArrayRef(spec.shape), "tensor '", name,
            "' is not of the type and shape announced");
  const at::Tensor data = tensor.contiguous();
  file_->write(std::span(static_cast<const std::byte*>(data.const_data_ptr()), data.nbytes()));
}

void SafetensorsWriter::finish() {
  MOE_CHECK(next_ == specs_.size(), specs_.size() - next_, " announced tensors were not written");
  file_->commit();
}

}  // namespace moe
