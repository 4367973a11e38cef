#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

/// What every fuzz target shares: the rule that it holds a parser to. A broken rule ends the process, so that libFuzzer
/// keeps the input. Not for several threads.
namespace moe::fuzz {

/// What a parser may allocate for an input of N bytes.
struct MemoryBound {
  double bytes_per_byte = 0;
  size_t fixed = 0;  ///< bytes besides
};

/// The name that messages must start with.
inline constexpr char kWhere[] = "some/file";

/// Runs `parse` on the input. It may return, or throw InvalidArgument (Corruption is one) whose message starts with
/// kWhere, is no longer than a screen and holds no NUL. Anything else, another exception, or a single allocation above
/// `largest` or memory above `total` at any time, is a finding.
void check(const uint8_t* data, size_t size, const MemoryBound& largest, const MemoryBound& total,
           const std::function<void(std::string_view)>& parse);

}  // namespace moe::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
