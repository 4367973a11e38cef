// Names and texts of the errors that this simulation returns, in CUDA's words.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

namespace {

template <typename Status>
struct Entry {
  Status status;
  const char* name;
  const char* text;
};

constexpr Entry<cudaError_t> kCudaErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
};
constexpr Entry<cudaError_t> kUnknownError{cudaErrorUnknown, "unrecognized error code", "unrecognized error code"};

constexpr Entry<cublasStatus_t> kCublasStatuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
     "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", "the requested functionality is not supported"},
};
constexpr Entry<cublasStatus_t> kUnknownStatus{CUBLAS_STATUS_INTERNAL_ERROR, "unrecognized status",
                                               "unrecognized status"};

template <typename Status, size_t N>
const Entry<Status>& find(const Entry<Status> (&table)[N], Status status, const Entry<Status>& unknown) {
  const auto* const entry =
      std::find_if(std::begin(table), std::end(table), [status](const auto& e) { return e.status == status; });
  return entry == std::end(table) ? unknown : *entry;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  return find(kCudaErrors, error, kUnknownError).name;
}
const char* cudaGetErrorString(cudaError_t error) {
  return find(kCudaErrors, error, kUnknownError).text;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  return find(kCublasStatuses, status, kUnknownStatus).name;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return find(kCublasStatuses, status, kUnknownStatus).text;
}

}  // extern "C"
