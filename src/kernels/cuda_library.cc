#include "kernels/cuda_library.h"

#include <dlfcn.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <string>
#include <system_error>

#include "common/error.h"
#include "kernels/backend.h"

namespace moe::kernels {
namespace {

/// The one place that remembers the library; it stays loaded until the process ends.
std::atomic<const Backend*>& slot() {
  static std::atomic<const Backend*> backend{nullptr};
  return backend;
}

using Describe = void (*)(int device, CudaDevice* description);
std::atomic<Describe>& describe_slot() {
  static std::atomic<Describe> describe{nullptr};
  return describe;
}

/// A program that was moved or installed brings its library along; the build tree it came from may be another's, or
/// gone.
std::string library_to_load() {
  std::error_code error;
  const std::string beside = std::filesystem::read_symlink("/proc/self/exe", error).replace_filename("libmoe_cuda.so");
  if (std::filesystem::exists(beside, error)) return beside;
#ifdef MOE_CUDA_LIBRARY
  if (std::filesystem::exists(MOE_CUDA_LIBRARY, error)) return MOE_CUDA_LIBRARY;
  throw InvalidArgument(concat("CUDA was asked for, but there is neither ", beside, " nor ", MOE_CUDA_LIBRARY,
                               ": put libmoe_cuda.so of the same build beside the program, or use the CPU"));
#else
  throw InvalidArgument(concat("CUDA was asked for, but this build has none, nor is there ", beside,
                               ": configure with -DMOE_ENABLE_CUDA=ON on a machine with nvcc, or use the CPU"));
#endif
}

}  // namespace

const Backend* loaded_cuda_backend() {
  return slot().load(std::memory_order_acquire);
}

int load_cuda_library_and_count_devices(const std::string& path) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded_cuda_backend() == nullptr) {
    const std::string file = path.empty() ? library_to_load() : path;
    void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      throw HardwareError(concat("cannot load the CUDA library ", file, ": ", dlerror()));
    }
    using Entry = const Backend* (*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(handle, "moe_cuda_backend"));
    if (entry == nullptr) {
      throw InvalidArgument(concat(file, " is not our CUDA library: it has no function moe_cuda_backend"));
    }
    const auto describe = reinterpret_cast<Describe>(dlsym(handle, "moe_cuda_describe_device"));
    if (describe == nullptr) {
      throw InvalidArgument(concat(file, " is of another build: it has no function moe_cuda_describe_device"));
    }
    describe_slot().store(describe, std::memory_order_release);
    slot().store(entry(), std::memory_order_release);
  }
  return loaded_cuda_backend()->device_count();
}

CudaDevice describe_cuda_device(int device) {
  const Describe describe = describe_slot().load(std::memory_order_acquire);
  if (describe == nullptr) throw Internal("the CUDA library is not loaded");
  CudaDevice description;
  describe(device, &description);
  return description;
}

void load_cuda_library(const std::string& path) {
  if (load_cuda_library_and_count_devices(path) == 0) {
    throw HardwareError(
        "CUDA was asked for, but this machine shows no CUDA device (no GPU, no driver, or CUDA_VISIBLE_DEVICES hides "
        "it): check nvidia-smi, or use the CPU");
  }
}

}  // namespace moe::kernels
