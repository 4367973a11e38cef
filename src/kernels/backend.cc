#include "kernels/backend.h"

#include "common/error.h"
#include "kernels/cuda_library.h"

namespace moe::kernels {

const Backend& backend(DeviceType device) {
  if (device == DeviceType::kCpu) {
    return kCpuBackend;
  }
  const Backend* cuda = loaded_cuda_backend();
  if (cuda == nullptr) {
    throw InvalidArgument(
        "a kernel was asked for on CUDA, but no CUDA library is loaded: call load_cuda_library() first (moe-worker "
        "--device cuda does), or use the CPU");
  }
  return *cuda;
}

}  // namespace moe::kernels
