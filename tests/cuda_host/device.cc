#include "cuda_host/device.h"

#include <atomic>
#include <cstdio>
#include <utility>

namespace moe::cuda_host {
namespace {

thread_local int device_of_thread = 0;
thread_local cudaError_t error_of_thread = cudaSuccess;
std::atomic<cudaError_t> status{cudaSuccess};

}  // namespace

int& current_device() {
  return device_of_thread;
}

cudaError_t fail(cudaError_t error) {
  return error_of_thread = error;
}

cudaError_t take_last_error() {
  const cudaError_t error = last_error();
  error_of_thread = cudaSuccess;
  return error;
}

cudaError_t last_error() {
  return error_of_thread != cudaSuccess ? error_of_thread : device_status();
}

cudaError_t device_status() {
  return status;
}

void lose_device(const Fault& fault) {
  std::fprintf(stderr, "cuda_host: %s (%s)\n", fault.what(), cudaGetErrorName(fault.error));
  cudaError_t expected = cudaSuccess;
  status.compare_exchange_strong(expected, fault.error);
}

void revive_device() {
  status = cudaSuccess;
}

}  // namespace moe::cuda_host
