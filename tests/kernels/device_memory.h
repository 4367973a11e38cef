#pragma once

#include <cstddef>
#include <memory>

#include "kernels/views.h"

/// Memory on the device under test, for tests that are written once for CPU and CUDA.
namespace moe::kernels::testing {

/// Devices of this kind: 1 for kCpu; for kCuda what the machine has, 0 in a build without CUDA.
int device_count(DeviceType device);

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual void* data() = 0;
  /// Both wait for everything that was enqueued on the default stream.
  virtual void write(const void* from, size_t bytes) = 0;
  virtual void read(void* to, size_t bytes) = 0;
};

std::unique_ptr<DeviceMemory> allocate(DeviceType device, size_t bytes);

/// The kCuda side: device_memory_cuda.cc, or device_memory_no_cuda.cc in a build without CUDA.
int cuda_device_count();
std::unique_ptr<DeviceMemory> allocate_cuda(size_t bytes);

}  // namespace moe::kernels::testing
