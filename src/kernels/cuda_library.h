#pragma once

#include <string>

/// Loading libmoe_cuda, the shared library with every CUDA kernel: compiled where nvcc was found when the project was
/// configured, loaded only by a run that asks for CUDA. Thread-safe.
namespace moe::kernels {

struct Backend;

/// Loads the library and makes DeviceType::kCuda work. `path`: the file, or empty for the one that was built with this
/// program. A second call does nothing.
///
/// Throws   InvalidArgument if this build has no CUDA, or the file is not our library; HardwareError if it cannot be
///          loaded (with the loader's reason: a CUDA library is missing) or the machine shows no CUDA device.
void load_cuda_library(const std::string& path = "");

/// As above, but accepts a machine without a device: returns how many there are. For tests, which skip on 0.
int load_cuda_library_and_count_devices(const std::string& path = "");

/// Null until the library is loaded.
const Backend* loaded_cuda_backend();

}  // namespace moe::kernels
