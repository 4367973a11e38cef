#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace moe {

/// One tensor of a safetensors header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  ///< "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< bytes from the start of the data buffer
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in data order
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  ///< where the data buffer starts in the file
};

/// Reads and checks the header of a safetensors file whose first bytes (at least 8 + N) are `bytes` and whose size is
/// `file_size`: every rule of the format (unique names, dtypes, sizes without overflow, offsets that tile the buffer).
/// `where` starts each message. Throws Corruption. One pass, no tree of JSON: no allocation is larger than 2 N + 1 MB.
/// Fuzzed.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, uint64_t file_size,
                                           const std::string& where);

}  // namespace moe
