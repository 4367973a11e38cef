#include "kernels/device_memory.h"

#include <cstring>
#include <vector>

namespace moe::kernels::testing {
namespace {

class CpuMemory : public DeviceMemory {
 public:
  explicit CpuMemory(size_t bytes) : bytes_(bytes) {}
  void* data() override { return bytes_.data(); }
  void write(const void* from, size_t bytes) override {
    if (bytes > 0) {
      std::memcpy(bytes_.data(), from, bytes);
    }
  }
  void read(void* to, size_t bytes) override {
    if (bytes > 0) {
      std::memcpy(to, bytes_.data(), bytes);
    }
  }

 private:
  std::vector<char> bytes_;
};

}  // namespace

int device_count(DeviceType device) {
  return device == DeviceType::kCpu ? 1 : cuda_device_count();
}

Queue queue_on(DeviceType device) {
  return {device, device == DeviceType::kCpu ? nullptr : cuda_stream()};
}

std::unique_ptr<DeviceMemory> allocate(DeviceType device, size_t bytes) {
  return device == DeviceType::kCpu ? std::make_unique<CpuMemory>(bytes) : allocate_cuda(bytes);
}

}  // namespace moe::kernels::testing
