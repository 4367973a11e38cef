// The header of a safetensors file. Each input is tried as a whole file and, so that a changed header is still as long
// as it says, as a header behind eight bytes that are made to fit, the first of which says how many bytes of data
// follow.

#include <cstdlib>
#include <cstring>
#include <span>

#include "checkpoint/safetensors_header.h"
#include "common/error.h"
#include "fuzz_target.h"

namespace moe {
namespace {

/// What is accepted obeys every rule of the format that the loader relies on.
void check_header(const SafetensorsHeader& header, uint64_t file_size) {
  uint64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != end || entry.end < entry.begin || entry.shape.size() > 64) std::abort();
    for (const int64_t extent : entry.shape) {
      if (extent < 0) std::abort();
    }
    end = entry.end;
  }
  if (header.data_offset + end != file_size) std::abort();
}

void parse(std::string_view bytes, uint64_t file_size) {
  check_header(parse_safetensors_header(std::as_bytes(std::span(bytes)), file_size, fuzz::kWhere), file_size);
}

}  // namespace
}  // namespace moe

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // As docs/testing.md says; and what is held in all.
  constexpr moe::fuzz::MemoryBound kLargest{2, size_t{1} << 20}, kTotal{16, size_t{1} << 20};
  moe::fuzz::check(data, size, kLargest, kTotal, [](std::string_view bytes) { moe::parse(bytes, bytes.size()); });
  uint64_t length = size;
  if (size < sizeof length) return 0;
  length -= sizeof length;
  std::string fitted(reinterpret_cast<const char*>(data), size);
  std::memcpy(fitted.data(), &length, sizeof length);
  moe::fuzz::check(reinterpret_cast<const uint8_t*>(fitted.data()), size, kLargest, kTotal,
                   [data](std::string_view bytes) { moe::parse(bytes, bytes.size() + data[0]); });
  return 0;
}
