#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

/// Checks of CUDA calls, part of libmoe_cuda. Both throw HardwareError with the call's text, the error's name and
/// meaning, the device and file:line.
#define MOE_CUDA_CHECK(call)                                                   \
  do {                                                                         \
    if (const cudaError_t moe_status = (call); moe_status != cudaSuccess)      \
      ::moe::kernels::throw_cuda_error(#call, moe_status, __FILE__, __LINE__); \
  } while (false)

#define MOE_CUBLAS_CHECK(call)                                                         \
  do {                                                                                 \
    if (const cublasStatus_t moe_status = (call); moe_status != CUBLAS_STATUS_SUCCESS) \
      ::moe::kernels::throw_cublas_error(#call, moe_status, __FILE__, __LINE__);       \
  } while (false)

namespace moe::kernels {

/// Also clears the runtime's last error, so that the next check reports its own.
[[noreturn]] void throw_cuda_error(const char* call, cudaError_t status, const char* file, int line);

[[noreturn]] void throw_cublas_error(const char* call, cublasStatus_t status, const char* file, int line);

}  // namespace moe::kernels
