#pragma once

#include <cstddef>

/// Memory of the simulated device, which only work of streams may touch: elsewhere an access is a segmentation fault.
/// Under a sanitizer it comes from malloc instead, whose bounds it knows, and may be touched from anywhere.
/// Thread-safe.
namespace moe::cuda_host {

/// Aligned to 256 bytes and no better, as cudaMalloc promises; filled with 0xff: NaN in every float type, -1 in every
/// integer type. Null where there is no room.
void* device_malloc(size_t bytes);

/// Throws Fault for what is not the begin of device memory, or where the bytes around it were written.
void device_free(void* data);

bool is_device_memory(const void* data);

/// While one lives, the host may touch device memory.
class Access {
 public:
  Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
  ~Access();
};

}  // namespace moe::cuda_host
