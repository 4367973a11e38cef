#include "cuda_host/settings.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string_view>

namespace moe::cuda_host {
namespace {

std::optional<unsigned> number_in(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

[[noreturn]] void refuse(const char* name, const char* text, const char* expected) {
  std::fprintf(stderr, "cuda_host: %s is '%s'; expected %s\n", name, text, expected);
  std::exit(64);
}

}  // namespace

ThreadOrder thread_order() {
  const char* const text = std::getenv("MOE_CUDA_HOST_ORDER");
  if (text == nullptr || std::string_view(text) == "forward") return {};
  if (std::string_view(text) == "reverse") return {.is_reversed = true, .seed = {}};
  const std::optional<unsigned> seed = number_in(text);
  if (!seed) refuse("MOE_CUDA_HOST_ORDER", text, "forward, reverse or a number, the seed of a random order");
  return {.is_reversed = false, .seed = seed};
}

std::vector<int> visible_devices() {
  unsigned count = 1;
  if (const char* const text = std::getenv("MOE_CUDA_HOST_DEVICES")) {
    const std::optional<unsigned> given = number_in(text);
    if (!given || *given > 64) refuse("MOE_CUDA_HOST_DEVICES", text, "a number of devices, 0 to 64");
    count = *given;
  }
  std::vector<int> visible;
  const char* const listed = std::getenv("CUDA_VISIBLE_DEVICES");
  if (listed == nullptr) {
    visible.resize(count);
    std::iota(visible.begin(), visible.end(), 0);
    return visible;
  }
  for (std::string_view rest = listed;;) {
    const size_t comma = rest.find(',');
    const std::optional<unsigned> device = number_in(rest.substr(0, comma));
    if (!device || *device >= count) return visible;
    visible.push_back(static_cast<int>(*device));
    if (comma == std::string_view::npos) return visible;
    rest.remove_prefix(comma + 1);
  }
}

std::optional<size_t> memory_limit() {
  const char* const text = std::getenv("MOE_CUDA_HOST_MEMORY");
  if (text == nullptr) return std::nullopt;
  const std::optional<unsigned> mebibytes = number_in(text);
  if (!mebibytes) refuse("MOE_CUDA_HOST_MEMORY", text, "a number of mebibytes");
  return size_t{*mebibytes} << 20;
}

}  // namespace moe::cuda_host
