// The functions of the CUDA runtime that the project calls. One that it does not call yet is missing when libmoe_cuda
// is linked. As in CUDA, after a fault every one of them returns its error.
#include <cuda_runtime_api.h>

#include <cstring>

#include "cuda_host/device.h"
#include "cuda_host/launch.h"
#include "cuda_host/memory.h"
#include "cuda_host/settings.h"
#include "cuda_host/streams.h"

namespace host = moe::cuda_host;

namespace {

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  host::enqueue(stream, std::move(work));
  return host::device_status();
}

/// Whether device memory is where this kind of copy has it. cudaMemcpyDefault asks the addresses.
bool is_direction(const void* to, const void* from, cudaMemcpyKind kind) {
  const bool to_device = host::is_device_memory(to), from_device = host::is_device_memory(from);
  switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

int device_count() {
  return static_cast<int>(host::visible_devices().size());
}

host::Mark& mark_of(cudaEvent_t event) {
  return *reinterpret_cast<host::Mark*>(event);
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return *count > 0 ? cudaSuccess : host::fail(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = host::current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return host::fail(cudaErrorInvalidDevice);
  host::current_device() = device;
  return host::device_status();
}
/// What tells one from another, and nothing of its abilities.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= device_count()) return host::fail(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "CUDA without a card");
  properties->totalGlobalMem = host::memory_limit().value_or(size_t{16} << 30);
  properties->uuid.bytes[15] = static_cast<char>(host::visible_devices()[static_cast<size_t>(device)]);
  return host::device_status();
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  host::synchronize();
  return host::device_status();
}
/// Memory and streams stay; what a fault broke is whole again.
cudaError_t cudaDeviceReset() {
  host::synchronize();
  host::revive_device();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return host::take_last_error();
}
cudaError_t cudaPeekAtLastError() {
  return host::last_error();
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = host::device_malloc(bytes);
  return *data == nullptr ? host::fail(cudaErrorMemoryAllocation) : host::device_status();
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return host::device_status();
  host::synchronize();
  try {
    host::device_free(data);
  } catch (const host::Fault& fault) {
    if (fault.error == cudaErrorInvalidValue) return host::fail(fault.error);
    host::lose_device(fault);
  }
  return host::device_status();
}
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  return cudaMalloc(data, bytes);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  return enqueue(stream, [data] { host::device_free(data); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return host::device_status();
  if (!is_direction(to, from, kind)) return host::fail(cudaErrorInvalidValue);
  return enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  host::wait_for(host::end_of(host::stream_of(nullptr)));
  return status == cudaSuccess ? host::device_status() : status;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  if (width > pitch) return host::fail(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(to) + row * pitch, value, width);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking) return host::fail(cudaErrorInvalidValue);
  *stream = reinterpret_cast<cudaStream_t>(&host::create_stream(flags == cudaStreamDefault));
  return host::device_status();
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
/// Its work is done here, if nowhere else; CUDA would do it some time later.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) host::enqueue(nullptr, [] {});  // so that it waits for the streams it waits for
  host::wait_for(host::end_of(host::stream_of(stream)));
  return host::device_status();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return enqueue(stream, [mark = mark_of(event)] { host::wait_for(mark); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new host::Mark);
  return host::device_status();
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &mark_of(event);
  return host::device_status();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  mark_of(event) = host::end_of(host::stream_of(stream));
  return host::device_status();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const host::Mark mark = mark_of(event);
  host::advance(mark);
  if (host::device_status() != cudaSuccess) return host::device_status();
  return host::is_done(mark) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  host::wait_for(mark_of(event));
  return host::device_status();
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return host::fail(cudaErrorInvalidValue);
  const cudaError_t status = host::set_max_dynamic_shared_bytes(kernel, value);
  return status == cudaSuccess ? host::device_status() : host::fail(status);
}

}  // extern "C"
