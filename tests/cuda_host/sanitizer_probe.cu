// Kernels that a sanitizer must complain about, and one that it must not: what its tests on the project's kernels are
// worth. Called with the name of a kernel.
#include <cuda_runtime_api.h>

#include <string_view>

namespace {

constexpr int kThreads = 64;

/// One thread writes what the others read, without a barrier between.
__global__ void race(int* out) {
  __shared__ int shared;
  if (threadIdx.x == 0) shared = 5;
  out[threadIdx.x] = shared;
}

__global__ void barrier(int* out) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  int value = shared[(threadIdx.x + 40) % kThreads];
  value = __shfl_xor_sync(0xffffffffu, value, 1);
  if (threadIdx.x % 32 < 16) value += __shfl_down_sync(0xffffu, value, 1);
  __syncwarp();
  __syncthreads();
  shared[threadIdx.x] = value;
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void overrun(int* out) {
  out[threadIdx.x + 1] = 5;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  int* out = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&out), kThreads * sizeof(int));
  if (name == "race") race<<<1, kThreads>>>(out);
  if (name == "barrier") barrier<<<1, kThreads>>>(out);
  if (name == "overrun") overrun<<<1, kThreads>>>(out);
  const bool is_well = cudaDeviceSynchronize() == cudaSuccess;
  cudaFree(out);
  return is_well ? 0 : 1;
}
