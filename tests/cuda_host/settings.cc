#include "cuda_host/settings.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
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

int device_count() {
  const char* const text = std::getenv("MOE_CUDA_HOST_DEVICES");
  if (text == nullptr) return 1;
  const std::optional<unsigned> count = number_in(text);
  if (!count || *count > 64) refuse("MOE_CUDA_HOST_DEVICES", text, "a number of devices, 0 to 64");
  return static_cast<int>(*count);
}

}  // namespace moe::cuda_host
