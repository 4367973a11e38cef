#include "kernels/cuda_check.h"

#include <string>

#include "common/error.h"

namespace moe::kernels {
namespace {

std::string where(const char* file, int line) {
  int device = -1;
  const bool has_device = cudaGetDevice(&device) == cudaSuccess;
  return concat(has_device ? concat(" on device ", device) : std::string(), " (", file, ":", line, ")");
}

}  // namespace

void throw_cuda_error(const char* call, cudaError_t status, const char* file, int line) {
  cudaGetLastError();
  throw HardwareError(
      concat(call, " failed: ", cudaGetErrorName(status), ", ", cudaGetErrorString(status), where(file, line)));
}

void throw_cublas_error(const char* call, cublasStatus_t status, const char* file, int line) {
  throw HardwareError(concat(call, " failed: ", cublasLtGetStatusName(status), ", ", cublasLtGetStatusString(status),
                             where(file, line)));
}

}  // namespace moe::kernels
