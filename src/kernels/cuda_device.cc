// Part of libmoe_cuda.
#include "kernels/cuda_device.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda_check.h"

/// Called by describe_cuda_device (cuda_library.h).
extern "C" void moe_cuda_describe_device(int device, moe::kernels::CudaDevice* description) {
  cudaDeviceProp properties{};
  MOE_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  description->name = properties.name;
  description->memory_bytes = properties.totalGlobalMem;
  for (const char byte : properties.uuid.bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    description->uuid += kDigits[static_cast<unsigned char>(byte) >> 4];
    description->uuid += kDigits[byte & 15];
  }
  MOE_CUDA_CHECK(cudaDriverGetVersion(&description->driver_cuda));
  MOE_CUDA_CHECK(cudaRuntimeGetVersion(&description->runtime_cuda));
}
