#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "model/device.h"

namespace moe::testing {

/// Where tests of operations run them: on GPU 0 in a program that LibTorch's CUDA, real or simulated
/// (tests/cuda_host/torch), is linked into, else on the CPU.
inline at::Device test_device() {
  static const at::Device device = [] {
    if (!c10::impl::hasDeviceGuardImpl(c10::kCUDA)) return at::Device(at::kCPU);
    open_cuda("", 0);
    return device_of("cuda");
  }();
  return device;
}

}  // namespace moe::testing
