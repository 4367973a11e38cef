#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

namespace moe::cuda_host::testing {

/// An array on the device, with copies that wait for the default stream.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T));
    cudaMemset(data_, 0, size * sizeof(T));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> values() const {
    std::vector<T> out(size_);
    cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

}  // namespace moe::cuda_host::testing
