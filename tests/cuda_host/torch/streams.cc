#include "cuda_host/torch/streams.h"

#include <map>
#include <mutex>
#include <vector>

namespace moe::cuda_host {
namespace {

std::mutex mutex;

/// Of a stream that is not the default, its id less 1 is its place here.
std::vector<cudaStream_t>& streams() {
  static auto* const streams = new std::vector<cudaStream_t>;
  return *streams;
}

/// Ids of this thread's current streams, by device.
std::map<c10::DeviceIndex, c10::StreamId>& current() {
  static thread_local std::map<c10::DeviceIndex, c10::StreamId> current;
  return current;
}

}  // namespace

c10::Device current_torch_device() {
  int device = 0;
  cudaGetDevice(&device);
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(device)};
}

c10::Stream current_torch_stream(c10::Device device) {
  return c10::Stream(c10::Stream::UNSAFE, device, current()[device.index()]);
}

c10::Stream exchange_torch_stream(c10::Stream stream) {
  c10::StreamId& here = current()[stream.device_index()];
  const c10::Stream before(c10::Stream::UNSAFE, stream.device(), here);
  here = stream.id();
  return before;
}

c10::Stream new_torch_stream(c10::Device device) {
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device.index());
  cudaStream_t made = nullptr;
  cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  cudaSetDevice(before);
  const std::lock_guard<std::mutex> lock(mutex);
  streams().push_back(made);
  return c10::Stream(c10::Stream::UNSAFE, device, static_cast<c10::StreamId>(streams().size()));
}

cudaStream_t native_stream(c10::Stream stream) {
  if (stream.id() == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  return streams().at(static_cast<size_t>(stream.id() - 1));
}

}  // namespace moe::cuda_host
