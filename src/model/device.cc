#include "model/device.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include "common/error.h"
#include "kernels/cuda_library.h"

namespace moe {
namespace {

/// LibTorch's kernels, allocator and streams: a library that registers itself. It may have come with libmoe_cuda.
void load_torch_cuda() {
  if (c10::impl::hasDeviceGuardImpl(c10::kCUDA)) return;
  constexpr char kLibrary[] = "libtorch_cuda.so";
  if (dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw HardwareError(concat("CUDA was asked for, and LibTorch's part of it cannot be loaded: ", dlerror(),
                               "; install it with `bash deploy/install_deps.sh --cuda`, or use the CPU"));
  }
  if (!c10::impl::hasDeviceGuardImpl(c10::kCUDA))
    throw HardwareError(concat(kLibrary, " was loaded and brings no CUDA: it is another LibTorch's"));
}

}  // namespace

kernels::CudaDevice open_cuda(const std::string& library, int local_rank) {
  kernels::load_cuda_library(library);
  load_torch_cuda();
  const c10::impl::VirtualGuardImpl cuda(c10::kCUDA);
  const c10::DeviceIndex count = cuda.deviceCount();
  MOE_CHECK(count > 0, "CUDA shows our kernels a GPU, and LibTorch none");
  const auto device = static_cast<c10::DeviceIndex>(local_rank % count);
  cuda.setDevice({c10::kCUDA, device});
  return kernels::describe_cuda_device(device);
}

at::Device device_of(const std::string& name) {
  if (name.empty() || name == "cpu") return at::kCPU;
  if (name != "cuda") throw InvalidArgument(concat("device '", name, "'; expected cpu or cuda"));
  if (!c10::impl::hasDeviceGuardImpl(c10::kCUDA))
    throw InvalidArgument("device 'cuda', and this process has opened no CUDA: start it with a job for cuda");
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getDevice();
}

at::Tensor on_device(const at::Tensor& tensor, at::Device device) {
  if (tensor.device() == device) return tensor;
  if (!tensor.is_cpu() || !device.is_cuda()) return tensor.to(device);
  // Pageable memory would be read while the host waits.
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace moe
