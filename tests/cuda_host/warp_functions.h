#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <type_traits>

#include "cuda_host/fibers.h"

/// Shuffles, votes and reductions of a warp. Lanes of `mask` that have ended hold nobody back. A value from a lane that
/// took no part is undefined in CUDA; here all its bits are set, a NaN, so that it shows.
namespace moe::cuda_host {

template <typename T>
T received_or_garbage(unsigned from) {
  T value;
  if (!received(from, &value, sizeof(T))) std::memset(static_cast<void*>(&value), 0xff, sizeof(T));
  return value;
}

template <typename T>
T exchange(const char* name, unsigned mask, T value, unsigned from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMaxExchangeBytes);
  warp_exchange(name, mask, &value, sizeof(T));
  return received_or_garbage<T>(from);
}

/// over(value of a lane, its number) for every lane that took part, from the first.
template <typename T, typename Over>
void for_each_lane(const char* name, unsigned mask, T value, Over over) {
  warp_exchange(name, mask, &value, sizeof(T));
  for (unsigned l = 0; l < 32; ++l) {
    T other;
    if (received(l, &other, sizeof(T))) over(other, l);
  }
}

template <typename T, typename Combine>
T reduce(const char* name, unsigned mask, T value, Combine combine) {
  bool is_first = true;
  T result{};
  for_each_lane(name, mask, value, [&](T other, unsigned) {
    result = is_first ? other : combine(result, other);
    is_first = false;
  });
  return result;
}

/// The first lane of the segment of `width` lanes that this one is in.
inline unsigned segment(int width) {
  return lane() & ~(static_cast<unsigned>(width) - 1);
}

/// `from` where it lies in the segment, else the lane itself.
inline unsigned within_segment(unsigned from, int width) {
  return from >= segment(width) && from < segment(width) + static_cast<unsigned>(width) ? from : lane();
}

}  // namespace moe::cuda_host

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  const char nothing = 0;
  moe::cuda_host::warp_exchange("__syncwarp", mask, &nothing, sizeof(nothing));
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const unsigned in_segment = static_cast<unsigned>(from) & (static_cast<unsigned>(width) - 1);
  return moe::cuda_host::exchange("__shfl_sync", mask, value, moe::cuda_host::segment(width) + in_segment);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return moe::cuda_host::exchange("__shfl_down_sync", mask, value,
                                  moe::cuda_host::within_segment(moe::cuda_host::lane() + delta, width));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return moe::cuda_host::exchange("__shfl_up_sync", mask, value,
                                  moe::cuda_host::within_segment(moe::cuda_host::lane() - delta, width));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  // A lane of a later segment gives its own value; one of an earlier segment may be read, as in CUDA.
  const unsigned from = moe::cuda_host::lane() ^ static_cast<unsigned>(lane_mask);
  const unsigned end = moe::cuda_host::segment(width) + static_cast<unsigned>(width);
  return moe::cuda_host::exchange("__shfl_xor_sync", mask, value, from < end ? from : moe::cuda_host::lane());
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned mine = predicate != 0 ? 1u << moe::cuda_host::lane() : 0u;
  return moe::cuda_host::reduce("__ballot_sync", mask, mine, std::bit_or<>());
}
inline int __any_sync(unsigned mask, int predicate) {
  return moe::cuda_host::reduce("__any_sync", mask, static_cast<int>(predicate != 0), std::bit_or<>());
}
inline int __all_sync(unsigned mask, int predicate) {
  return moe::cuda_host::reduce("__all_sync", mask, static_cast<int>(predicate != 0), std::bit_and<>());
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  unsigned same = 0;
  moe::cuda_host::for_each_lane("__match_any_sync", mask, value, [&](T other, unsigned l) {
    if (std::memcmp(&other, &value, sizeof(T)) == 0) same |= 1u << l;
  });
  return same;
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
  return moe::cuda_host::reduce("__reduce_add_sync", mask, value, std::plus<>());
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return moe::cuda_host::reduce("__reduce_max_sync", mask, value, [](T a, T b) { return a < b ? b : a; });
}
