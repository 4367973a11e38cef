#include "model/op_queue.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "common/error.h"

namespace moe::ops {

kernels::Queue queue_of(const char* op, std::initializer_list<NamedTensor> tensors) {
  const NamedTensor* first = nullptr;
  for (const NamedTensor& each : tensors) {
    if (!each.tensor.defined()) continue;
    if (first == nullptr) first = &each;
    if (each.tensor.device() != first->tensor.device()) {
      throw InvalidArgument(concat(op, ": ", first->name, " lies on ", first->tensor.device().str(), ", but ",
                                   each.name, " on ", each.tensor.device().str(),
                                   ": move the tensors of an operation to one device first"));
    }
  }
  MOE_CHECK(first != nullptr, op, ": no tensor to take the device of");
  const at::Device device = first->tensor.device();
  if (device.is_cpu()) return {};
  if (!device.is_cuda()) {
    throw InvalidArgument(
        concat(op, ": ", first->name, " lies on ", device.str(), "; there are kernels for cpu and cuda"));
  }
  // Of whichever implementation of CUDA the process has loaded: nothing of CUDA is linked here.
  const c10::impl::VirtualGuardImpl cuda(device.type());
  // A kernel is launched on the thread's current device and a library's handle is that device's, whatever stream they
  // are given. A rank has one device, so a tensor that lies on another comes of a thread that was never put on the
  // rank's device, or of another rank: to follow it there would hide that.
  if (const at::Device current = cuda.getDevice(); current != device) {
    throw InvalidArgument(
        concat(op, ": ", first->name, " lies on ", device.str(), ", but the calling thread works on ", current.str(),
               ": make the tensor's device the thread's current one first (c10::DeviceGuard), or move "
               "the tensor"));
  }
  return {kernels::DeviceType::kCuda, cuda.getStream(device).native_handle()};
}

}  // namespace moe::ops
