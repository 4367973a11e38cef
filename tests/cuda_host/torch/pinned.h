#pragma once

#include <c10/core/Allocator.h>

/// Pinned host memory: what the simulated device copies from and to while the host goes on. Thread-safe.
namespace moe::cuda_host {

c10::Allocator& pinned_allocator();

/// Whether the address lies in it.
bool is_pinned(const void* data);

}  // namespace moe::cuda_host
