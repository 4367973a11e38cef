#pragma once

#include <c10/core/Stream.h>
#include <cuda_runtime_api.h>

/// Torch's current device and streams on the simulated device: per thread, as c10::cuda keeps them. Thread-safe.
namespace moe::cuda_host {

c10::Device current_torch_device();
c10::Stream current_torch_stream(c10::Device device);
c10::Stream exchange_torch_stream(c10::Stream stream);

/// One that no other stream waits for; never destroyed, as Torch's pools.
c10::Stream new_torch_stream(c10::Device device);

/// The default stream is CUDA's legacy one.
cudaStream_t native_stream(c10::Stream stream);

}  // namespace moe::cuda_host
