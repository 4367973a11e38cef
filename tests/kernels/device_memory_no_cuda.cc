#include <stdexcept>

#include "kernels/device_memory.h"

namespace moe::kernels::testing {

int cuda_device_count() {
  return 0;
}

void* cuda_stream() {
  return nullptr;
}

std::unique_ptr<DeviceMemory> allocate_cuda(size_t) {
  throw std::logic_error("this build has no CUDA");
}

}  // namespace moe::kernels::testing
