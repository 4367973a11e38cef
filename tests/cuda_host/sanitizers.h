#pragma once

#include <cstddef>

/// What the address and thread sanitizers must be told about fibers. Declared weak: null in a program that was linked
/// without that sanitizer, so that one build of this library serves them all (signatures: GCC's
/// sanitizer/common_interface_defs.h, asan_interface.h and tsan_interface.h).
extern "C" {
[[gnu::weak]] void __asan_init();
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* data, size_t bytes);
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t bytes);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* bytes);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* object);
[[gnu::weak]] void __tsan_release(void* object);
}

namespace moe::cuda_host {

inline bool has_address_sanitizer() {
  return &__asan_init != nullptr;
}
inline bool has_thread_sanitizer() {
  return &__tsan_create_fiber != nullptr;
}

/// What happened before publish(object) is seen by the thread sanitizer as ordered before what follows observe(object).
inline void publish(void* object) {
  if (has_thread_sanitizer()) __tsan_release(object);
}
inline void observe(void* object) {
  if (has_thread_sanitizer()) __tsan_acquire(object);
}

}  // namespace moe::cuda_host
