#pragma once

#include <cstdint>

#include "kernels/cuda_elements.h"

/// Reductions within a block, in an order that depends on its number of threads alone. For the files *_cuda.cu.
namespace moe::kernels::cuda {

struct Add {
  template <typename S>
  __device__ S operator()(S a, S b) const {
    return a + b;
  }
};
struct Larger {
  template <typename S>
  __device__ S operator()(S a, S b) const {
    return a < b ? b : a;
  }
};

/// All `Threads` threads of the block call it, and each gets the whole. May be called again at once.
template <int Threads, typename S, typename Op>
__device__ S block_reduce(S value, Op op) {
  static_assert(Threads % kWarp == 0);
  __shared__ S of_warp[Threads / kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = op(value, __shfl_down_sync(kAllLanes, value, offset));
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  S total = of_warp[0];
  for (int warp = 1; warp < Threads / kWarp; ++warp) total = op(total, of_warp[warp]);
  __syncthreads();  // nobody writes the next reduction's parts before all have read these
  return total;
}

template <int Threads, typename S>
__device__ S block_sum(S value) {
  return block_reduce<Threads>(value, Add{});
}

/// Where this thread stands among those of the block for which `is_counted` holds, in the order of threads, and how
/// many there are. All threads of the block call it; it may be called again at once.
struct Place {
  int64_t before;
  int64_t all;
};
template <int Threads>
__device__ Place block_place(bool is_counted) {
  static_assert(Threads % kWarp == 0);
  __shared__ int of_warp[Threads / kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned counted = __ballot_sync(kAllLanes, is_counted);
  if (lane == 0) of_warp[warp] = __popc(counted);
  __syncthreads();
  Place place{__popc(counted & ((1u << lane) - 1)), 0};
  for (unsigned w = 0; w < Threads / kWarp; ++w) {
    if (w < warp) place.before += of_warp[w];
    place.all += of_warp[w];
  }
  __syncthreads();
  return place;
}

}  // namespace moe::kernels::cuda
