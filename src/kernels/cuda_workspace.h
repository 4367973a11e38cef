#pragma once

#include <cstddef>

#include "kernels/cuda_check.h"

namespace moe::kernels {

/// Memory in the order of the stream: whoever uses it later on this stream waits for this call, nobody else does.
class CudaWorkspace {
 public:
  CudaWorkspace(size_t bytes, cudaStream_t stream) : stream_(stream) {
    if (bytes > 0) MOE_CUDA_CHECK(cudaMallocAsync(&data_, bytes, stream));
  }
  CudaWorkspace(const CudaWorkspace&) = delete;
  CudaWorkspace& operator=(const CudaWorkspace&) = delete;
  ~CudaWorkspace() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }
  void* data() const { return data_; }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

}  // namespace moe::kernels
