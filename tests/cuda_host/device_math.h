#pragma once

#include <math.h>  // NOLINT: exp(float) and the like in the global namespace, as in device code

#include <cmath>
#include <type_traits>

/// Atomics and the few functions of device code that the host's headers lack.

template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}

/// All threads of a block share an OS thread, so nothing comes between; other OS threads may run blocks too.
inline void __threadfence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_block() {}

namespace moe::cuda_host {

/// Replaces *address by next(what it was), which is returned.
template <typename T, typename Next>
T atomically(T* address, Next next) {
  static_assert(sizeof(T) <= 8);
  T old, value;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    value = next(old);
  } while (!__atomic_compare_exchange(address, &old, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace moe::cuda_host

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return moe::cuda_host::atomically(address, [value](T old) -> T { return old + value; });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return moe::cuda_host::atomically(address, [value](T old) -> T { return old < value ? value : old; });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return moe::cuda_host::atomically(address, [value](T old) -> T { return value < old ? value : old; });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return moe::cuda_host::atomically(address, [value](T) -> T { return value; });
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return moe::cuda_host::atomically(address, [=](T old) -> T { return old == expected ? value : old; });
}
