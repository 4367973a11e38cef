#include "cuda_host/launch.h"

#include <cstdint>
#include <map>
#include <mutex>

#include "cuda_host/device.h"
#include "cuda_host/fibers.h"
#include "cuda_host/streams.h"

namespace moe::cuda_host {
namespace {

constexpr size_t kUsualSharedBytes = size_t{48} << 10;

std::mutex mutex;
std::map<const void*, size_t> max_shared_bytes;

size_t shared_bytes_allowed(const void* kernel) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto entry = max_shared_bytes.find(kernel);
  return entry == max_shared_bytes.end() ? kUsualSharedBytes : entry->second;
}

bool is_valid(const dim3& grid, const dim3& block) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads > 0 && threads <= 1024 && block.z <= 64 && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
         grid.x <= INT32_MAX && grid.y <= 65535 && grid.z <= 65535;
}

}  // namespace

void launch(const void* kernel, const Config& config, std::function<void()> thread) {
  if (!is_valid(config.grid, config.block)) {
    fail(cudaErrorInvalidConfiguration);
  } else if (config.dynamic_shared_bytes > shared_bytes_allowed(kernel)) {
    fail(cudaErrorInvalidValue);
  } else if (stream_of(config.stream).device != current_device()) {
    fail(cudaErrorInvalidResourceHandle);
  } else {
    enqueue(config.stream, [config, thread = std::move(thread)] {
      run_grid(config.grid, config.block, config.dynamic_shared_bytes, thread);
    });
  }
}

cudaError_t set_max_dynamic_shared_bytes(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kMaxSharedBytes) return cudaErrorInvalidValue;
  const std::lock_guard<std::mutex> lock(mutex);
  max_shared_bytes[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

}  // namespace moe::cuda_host
