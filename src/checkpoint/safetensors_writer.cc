#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "checkpoint/dtypes.h"
#include "checkpoint/safetensors.h"
#include "common/error.h"

namespace moe {
uint64_t SafetensorsWriter::Spec::bytes() const {
  return std::accumulate(shape.begin(), shape.end(), uint64_t{c10::elementSize(dtype)}, std::multiplies<>());
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<Spec> specs,
                                     std::map<std::string, std::string> metadata)
    : specs_(std::move(specs)), file_(std::make_unique<AtomicFile>(std::move(path))) {
  metadata.emplace("format", "pt");
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Spec& spec : specs_) {
    const uint64_t end = offset + spec.bytes();
    MOE_CHECK(!header.contains(spec.name), "tensor '", spec.name, "' is to be written twice");
    header[spec.name] = {{"dtype", dtype_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(text)));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, const at::Tensor& tensor) {
  MOE_CHECK(next_ < specs_.size() && specs_[next_].name == name, "tensor '", name, "' is not the next one to write");
  const Spec& spec = specs_[next_++];
  MOE_CHECK(tensor.scalar_type() == spec.dtype && tensor.sizes() == at::IntArrayRef(spec.shape), "tensor '", name,
            "' is not of the type and shape announced");
  const at::Tensor data = tensor.contiguous();
  put(std::span(static_cast<const std::byte*>(data.const_data_ptr()), data.nbytes()));
}

void SafetensorsWriter::put(std::span<const std::byte> bytes) {
  // In pieces that are still in the cache when they are written after they were digested.
  constexpr size_t kPiece = size_t{1} << 18;
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(kPiece, bytes.size()))) {
    const std::span<const std::byte> piece = bytes.first(std::min(kPiece, bytes.size()));
    digest_.add(piece);
    file_->write(piece);
  }
}

void SafetensorsWriter::finish() {
  MOE_CHECK(next_ == specs_.size(), specs_.size() - next_, " announced tensors were not written");
  file_->commit();
}

}  // namespace moe
