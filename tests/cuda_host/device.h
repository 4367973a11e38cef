#pragma once

#include <cuda_runtime_api.h>

#include "cuda_host/fibers.h"

/// What the runtime remembers of a thread (its device, its last error) and of the process (whether a kernel faulted).
/// Thread-safe.
namespace moe::cuda_host {

/// The calling thread's device, 0 until set.
int& current_device();

/// Keeps an error for the calling thread's cudaGetLastError, and returns it.
cudaError_t fail(cudaError_t error);

/// The error that fail() kept, which is forgotten, or else that of the lost device.
cudaError_t take_last_error();
cudaError_t last_error();

/// cudaSuccess, or the error of the fault that lost the devices to this process, until revive().
cudaError_t device_status();

/// Prints what happened; work that is queued is dropped from now on. A second fault changes nothing.
void lose_device(const Fault& fault);
void revive_device();

}  // namespace moe::cuda_host
