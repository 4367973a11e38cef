// Torch's device and hooks: what at::hasCUDA(), c10::DeviceGuard, c10::Stream and c10::Event ask.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cuda_runtime_api.h>

#include "cuda_host/torch/allocator.h"
#include "cuda_host/torch/pinned.h"
#include "cuda_host/torch/record_keeping.h"
#include "cuda_host/torch/streams.h"

namespace moe::cuda_host {
namespace {

void check(cudaError_t status) {
  TORCH_CHECK(status == cudaSuccess, "CUDA error: ", cudaGetErrorString(status));
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device getDevice() const override { return current_torch_device(); }
  void setDevice(c10::Device device) const override { check(cudaSetDevice(device.index())); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { cudaSetDevice(device.index()); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? static_cast<c10::DeviceIndex>(count) : c10::DeviceIndex{0};
  }

  c10::Stream getStream(c10::Device device) const override { return current_torch_stream(device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return new_torch_stream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return new_torch_stream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return exchange_torch_stream(stream); }
  void* getStreamNativeHandle(const c10::Stream stream) const override { return native_stream(stream); }
  void synchronizeStream(const c10::Stream& stream) const override {
    count_host_wait("a wait for a stream");
    check(cudaStreamSynchronize(native_stream(stream)));
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    count_host_wait("a wait for the device");
    check(cudaDeviceSynchronize());
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    use_on_stream(data.get(), stream);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr)
      check(cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event), cudaEventDisableTiming));
    check(cudaEventRecord(static_cast<cudaEvent_t>(*event), native_stream(stream)));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) check(cudaStreamWaitEvent(native_stream(stream), static_cast<cudaEvent_t>(event), 0));
  }
  bool queryEvent(void* event) const override {
    if (event == nullptr) return true;
    const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(event));
    if (status != cudaErrorNotReady) check(status);
    return status == cudaSuccess;
  }
  void synchronizeEvent(void* event) const override {
    count_host_wait("a wait for an event");
    if (event != nullptr) check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    if (event != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(event));
  }
};

}  // namespace
}  // namespace moe::cuda_host

// c10 and ATen find what follows by these names.
namespace c10::impl {
using MoeCudaHostGuard = moe::cuda_host::Guard;
C10_REGISTER_GUARD_IMPL(CUDA, MoeCudaHostGuard)
}  // namespace c10::impl

namespace at::cuda::detail {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return deviceCount() > 0; }
  DeviceIndex deviceCount() const override { return moe::cuda_host::Guard().deviceCount(); }
  int getNumGPUs() const override { return deviceCount(); }
  DeviceIndex current_device() const override { return moe::cuda_host::current_torch_device().index(); }
  DeviceIndex getCurrentDevice() const override { return current_device(); }
  void setCurrentDevice(DeviceIndex device) const override { moe::cuda_host::Guard().setDevice({kCUDA, device}); }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static const Generator generator = at::detail::createCPUGenerator();
    return generator;
  }
  Device getDeviceFromPtr(void*) const override { return moe::cuda_host::current_torch_device(); }
  Allocator* getPinnedMemoryAllocator() const override { return &moe::cuda_host::pinned_allocator(); }
  bool isPinnedPtr(const void* data) const override { return moe::cuda_host::is_pinned(data); }
  Allocator* getCUDADeviceAllocator() const override { return &moe::cuda_host::torch_allocator(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks);

const bool has_allocator = [] {
  c10::SetAllocator(c10::kCUDA, &moe::cuda_host::torch_allocator());
  return true;
}();

}  // namespace at::cuda::detail
