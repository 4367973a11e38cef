#pragma once

#include <bit>
#include <cstdint>

namespace moe::kernels {

/// The upper half of a float. Widening is exact; narrowing rounds to nearest, ties to even, and keeps a NaN a NaN.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(is_nan ? (word >> 16) | 0x40u : (word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(BFloat16) == 2);

/// The type in which elements of T are summed; also the type of combine weights.
template <typename T>
struct Accumulate {
  using Type = T;
};
template <>
struct Accumulate<BFloat16> {
  using Type = float;
};

}  // namespace moe::kernels
