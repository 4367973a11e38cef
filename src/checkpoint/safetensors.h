#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors_header.h"
#include "common/file_io.h"
#include "common/xxh3_stream.h"

namespace moe {

/// A mapped safetensors file. Tensors are views of the mapping (kept alive by them) or copies where alignment asks.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const SafetensorsHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return path_; }
  const SafetensorsEntry* find(const std::string& name) const;
  /// Read-only: copy before writing. Throws InvalidArgument for an unknown name or a dtype that we do not load.
  at::Tensor tensor(const std::string& name) const;
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  /// The pages of this tensor may leave memory.
  void release(const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<MappedFile> mapping_;
  SafetensorsHeader header_;
  std::map<std::string, size_t> index_;
};

/// Writes a safetensors file tensor by tensor, so that memory holds one at a time: names, dtypes and shapes first, then
/// the contents in the same order (any order is legal; one element size per file keeps every tensor aligned). Atomic:
/// the file appears on finish().
class SafetensorsWriter {
 public:
  struct Spec {
    std::string name;
    at::ScalarType dtype;
    std::vector<int64_t> shape;

    /// Of its contents.
    uint64_t bytes() const;
  };
  SafetensorsWriter(std::filesystem::path path, std::vector<Spec> specs,
                    std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();

  /// The next tensor; must have the dtype and shape announced under this name.
  void write(const std::string& name, const at::Tensor& tensor);
  void finish();
  /// XXH3-128 of all bytes written so far, as xxh3_hex_of_file gives it of the finished file.
  std::string digest() const { return digest_.hex(); }

 private:
  void put(std::span<const std::byte> bytes);

  std::vector<Spec> specs_;
  size_t next_ = 0;
  std::unique_ptr<AtomicFile> file_;
  Xxh3Stream digest_;
};

}  // namespace moe
