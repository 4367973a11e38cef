#pragma once

/// CUDA C++ as plain C++, for tests. A .cu file, passed through launches.sed, is compiled by g++ with this header in
/// front (-include) against NVIDIA's own host headers, and its kernels run on the CPU (fibers.h). Covers: the built-in
/// variables, static and dynamic shared memory, __syncthreads and its votes, warp shuffles, votes and reductions with
/// masks, atomics, and bfloat16 as far as NVIDIA's header works on the host. Not: PTX (asm), wgmma, TMA, mbarrier,
/// cooperative groups, textures.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "cuda_host/device_math.h"
#include "cuda_host/fibers.h"
#include "cuda_host/launch.h"
#include "cuda_host/warp_functions.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#ifdef __SANITIZE_THREAD__
#define __shared__ static  // kernels on one OS thread alone: a thread_local is zeroed by who touches it first, a race
#else
#define __shared__ thread_local  // in a function: static, and one for each OS thread, which runs one block at a time
#endif
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::moe::cuda_host::thread_index())
#define blockIdx (::moe::cuda_host::block_index())
#define blockDim (::moe::cuda_host::block_size())
#define gridDim (::moe::cuda_host::grid_size())
constexpr int warpSize = 32;

inline void __syncthreads() {
  moe::cuda_host::block_barrier("__syncthreads");
}
inline int __syncthreads_count(int predicate) {
  return moe::cuda_host::block_barrier("__syncthreads_count", predicate != 0).for_it;
}
inline int __syncthreads_and(int predicate) {
  const moe::cuda_host::Votes votes = moe::cuda_host::block_barrier("__syncthreads_and", predicate != 0);
  return votes.for_it == votes.threads;
}
inline int __syncthreads_or(int predicate) {
  return moe::cuda_host::block_barrier("__syncthreads_or", predicate != 0).for_it > 0;
}

/// As nvcc offers it for kernels by name, beside the C function for addresses.
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
