#include "common/xxh3_stream.h"

#define XXH_STATIC_LINKING_ONLY  // for the size of a state
#include <xxhash.h>

namespace moe {

/// Aligned as the library wants it: new of an over-aligned type sees to that.
struct Xxh3Stream::State {
  XXH3_state_t xxh3;
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->xxh3);
}

Xxh3Stream::~Xxh3Stream() = default;

void Xxh3Stream::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

std::string Xxh3Stream::hex() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_->xxh3));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace moe
