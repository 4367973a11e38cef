#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda_library.h"
#include "kernels/device_memory.h"

namespace moe::kernels::testing {
namespace {

void require(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(cudaGetErrorString(status));
  }
}

class CudaMemory : public DeviceMemory {
 public:
  explicit CudaMemory(size_t bytes) { require(cudaMalloc(&data_, std::max<size_t>(bytes, 1))); }
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  ~CudaMemory() override { cudaFree(data_); }
  void* data() override { return data_; }
  void write(const void* from, size_t bytes) override {
    require(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice));
  }
  void read(void* to, size_t bytes) override { require(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost)); }

 private:
  void* data_ = nullptr;
};

}  // namespace

int cuda_device_count() {
  return load_cuda_library_and_count_devices();
}

std::unique_ptr<DeviceMemory> allocate_cuda(size_t bytes) {
  return std::make_unique<CudaMemory>(bytes);
}

}  // namespace moe::kernels::testing
