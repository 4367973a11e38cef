#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace moe::testing {

/// A safetensors file: the length of the header, the header, the data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + data;
}

}  // namespace moe::testing
