#pragma once

#include <cstddef>
#include <memory>

#include "kernels/views.h"

/// Memory on the device under test, for tests that are written once for CPU and CUDA.
namespace moe::kernels::testing {

/// Devices of this kind: 1 for kCpu; for kCuda what the machine has, 0 in a build without CUDA.
int device_count(DeviceType device);

/// Where tests enqueue. For kCuda a stream that does not wait for the default one, so that work which an op enqueues
/// anywhere else comes too late; with MOE_TEST_CUDA_STREAM=default in the environment the default stream.
Queue queue_on(DeviceType device);

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual void* data() = 0;
  /// Both wait for everything that was enqueued on queue_on(device), and for nothing else.
  virtual void write(const void* from, size_t bytes) = 0;
  virtual void read(void* to, size_t bytes) = 0;
};

std::unique_ptr<DeviceMemory> allocate(DeviceType device, size_t bytes);

/// The kCuda side: device_memory_cuda.cc, or device_memory_no_cuda.cc in a build without CUDA.
int cuda_device_count();
void* cuda_stream();
std::unique_ptr<DeviceMemory> allocate_cuda(size_t bytes);

}  // namespace moe::kernels::testing
