#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cuda_library.h"
#include "kernels/device_memory.h"

namespace moe::kernels::testing {
namespace {

void require(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(cudaGetErrorString(status));
  }
}

cudaStream_t test_stream() {
  static const cudaStream_t stream = [] {
    const char* const wanted = std::getenv("MOE_TEST_CUDA_STREAM");
    cudaStream_t own = nullptr;
    if (wanted == nullptr) {
      require(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
    } else if (std::string(wanted) != "default") {
      throw std::runtime_error(std::string("MOE_TEST_CUDA_STREAM is '") + wanted + "'; expected default, or nothing");
    }
    return own;
  }();
  return stream;
}

class CudaMemory : public DeviceMemory {
 public:
  explicit CudaMemory(size_t bytes) { require(cudaMalloc(&data_, std::max<size_t>(bytes, 1))); }
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  ~CudaMemory() override { cudaFree(data_); }
  void* data() override { return data_; }
  void write(const void* from, size_t bytes) override { copy(data_, from, bytes, cudaMemcpyHostToDevice); }
  void read(void* to, size_t bytes) override { copy(to, data_, bytes, cudaMemcpyDeviceToHost); }

 private:
  static void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    require(cudaMemcpyAsync(to, from, bytes, kind, test_stream()));
    require(cudaStreamSynchronize(test_stream()));
  }

  void* data_ = nullptr;
};

}  // namespace

int cuda_device_count() {
  return load_cuda_library_and_count_devices();
}

void* cuda_stream() {
  return test_stream();
}

std::unique_ptr<DeviceMemory> allocate_cuda(size_t bytes) {
  return std::make_unique<CudaMemory>(bytes);
}

}  // namespace moe::kernels::testing
