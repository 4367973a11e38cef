#pragma once

#include <cstddef>
#include <string>

namespace moe::kernels {

/// A GPU: for people, and to be told apart from others.
struct CudaDevice {
  std::string name;  ///< "NVIDIA H200"
  std::string uuid;  ///< its own, whatever number a process knows it by: 32 hexadecimal digits
  size_t memory_bytes = 0;
  int driver_cuda = 0;   ///< newest CUDA that its driver serves: 13000 is 13.0
  int runtime_cuda = 0;  ///< that our kernels call
};

}  // namespace moe::kernels
