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
        "a kernel was asked for on CUDA, but no CUDA library is loaded: call load_cuda_library() first, or use the "
        "CPU");
  }
  return *cuda;
}

void throw_no_version(const char* name, DeviceType device) {
  throw InvalidArgument(concat(name, " has no ", device == DeviceType::kCpu ? "CPU" : "CUDA",
                               " version: move its tensors to the ", device == DeviceType::kCpu ? "GPU" : "CPU"));
}

}  // namespace moe::kernels
