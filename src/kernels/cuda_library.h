#pragma once

#include <string>

#include "kernels/cuda_device.h"

/// Loading libmoe_cuda, the shared library with every CUDA kernel: compiled where nvcc was found when the project was
/// configured, loaded only by a run that asks for CUDA. Thread-safe.
namespace moe::kernels {

struct Backend;

/// Loads the library and makes DeviceType::kCuda work. `path`: the file, or empty for libmoe_cuda.so beside this
/// program, and where there is none the one that was built with it. A second call does nothing.
///
/// Throws   InvalidArgument if there is neither, or the file is not our library; HardwareError if it cannot be loaded
///          (with the loader's reason: a CUDA library is missing) or the machine shows no CUDA device. A file beside
///          the program that cannot be loaded is an error: the other one is not tried in its place.
void load_cuda_library(const std::string& path = "");

/// As above, but accepts a machine without a device: returns how many there are. For tests, which skip on 0.
int load_cuda_library_and_count_devices(const std::string& path = "");

/// Of the devices that the process can use, by number. Throws HardwareError where CUDA tells nothing of it, Internal
/// before the library is loaded.
CudaDevice describe_cuda_device(int device);

/// Null until the library is loaded.
const Backend* loaded_cuda_backend();

}  // namespace moe::kernels
