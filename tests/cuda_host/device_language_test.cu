// What CUDA C++ means, on the simulation.
#include <cuda_bf16.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cuda_host/device_array.h"

namespace moe::cuda_host::testing {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void write_places(int* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(block * 100 + thread);
}

TEST(DeviceLanguageTest, EveryThreadOfEveryBlockRunsOnce) {
  const DeviceArray<int> out(12 * 24);
  write_places<<<dim3(3, 2, 2), dim3(4, 3, 2)>>>(out.data());
  const std::vector<int> got = out.values();
  for (int i = 0; i < 12 * 24; ++i) EXPECT_EQ(got[i], i / 24 * 100 + i % 24);
}

__global__ void reverse_blocks(const int* in, int* out) {
  extern __shared__ __align__(16) int buffer[];
  __shared__ int first;
  const int i = threadIdx.x, n = blockDim.x;
  buffer[i] = in[blockIdx.x * n + i];
  if (i == 0) first = buffer[0];
  __syncthreads();
  out[blockIdx.x * n + i] = buffer[n - 1 - i] + 1000 * first;
}

TEST(DeviceLanguageTest, SharedMemoryIsOfTheBlockAndBarriersOrderIt) {
  std::vector<int> values(3 * 96);
  for (int i = 0; i < 3 * 96; ++i) values[i] = i;
  const DeviceArray<int> in(values), out(values.size());
  for (const char* const order : {"forward", "reverse", "7"}) {
    setenv("MOE_CUDA_HOST_ORDER", order, 1);
    reverse_blocks<<<3, 96, 96 * sizeof(int)>>>(in.data(), out.data());
    const std::vector<int> got = out.values();
    for (int i = 0; i < 3 * 96; ++i) {
      EXPECT_EQ(got[i], i / 96 * 96 + 95 - i % 96 + 1000 * (i / 96 * 96)) << order << " " << i;
    }
  }
  unsetenv("MOE_CUDA_HOST_ORDER");
}

/// Each thread reads what its neighbours on both sides wrote, with no barrier between.
__global__ void look_aside(int* out) {
  __shared__ int written[64];
  written[threadIdx.x] = static_cast<int>(blockIdx.x) + 1;
  const bool has_left = threadIdx.x > 0 && written[threadIdx.x - 1] == static_cast<int>(blockIdx.x) + 1;
  const bool has_right = threadIdx.x < 63 && written[threadIdx.x + 1] == static_cast<int>(blockIdx.x) + 1;
  out[threadIdx.x] = 2 * has_left + has_right;
}

TEST(DeviceLanguageTest, OrdersOfThreadsShowAMissingBarrier) {
  const DeviceArray<int> out(64);
  const auto run_in = [&](const char* order) {
    setenv("MOE_CUDA_HOST_ORDER", order, 1);
    look_aside<<<2, 64>>>(out.data());
    const std::vector<int> got = out.values();
    unsetenv("MOE_CUDA_HOST_ORDER");
    return std::vector<int>(got.begin() + 1, got.end() - 1);
  };
  EXPECT_EQ(run_in("forward"), std::vector<int>(62, 2));
  EXPECT_EQ(run_in("reverse"), std::vector<int>(62, 1));
  const std::vector<int> random = run_in("7");
  EXPECT_NE(random, run_in("forward"));
  EXPECT_NE(random, run_in("reverse"));
  EXPECT_NE(random, run_in("8"));
  EXPECT_EQ(random, run_in("7")) << "a seed is one order";
}

/// A warp that runs ahead writes into what another has not read yet.
__global__ void reuse_too_early(int* out) {
  __shared__ int written[2];
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x % 32 == 0) written[threadIdx.x / 32] = round;
    __syncthreads();
    const int other = written[1 - threadIdx.x / 32];
    if (other != round) out[threadIdx.x / 32] = 1;
    __syncwarp();  // where the block's barrier belongs
  }
}

TEST(DeviceLanguageTest, AWarpOvertakesWhatDoesNotHoldItBack) {
  for (const char* const order : {"forward", "reverse", "7"}) {
    const DeviceArray<int> out(2);
    setenv("MOE_CUDA_HOST_ORDER", order, 1);
    reuse_too_early<<<1, 64>>>(out.data());
    const std::vector<int> got = out.values();
    unsetenv("MOE_CUDA_HOST_ORDER");
    EXPECT_EQ(got[0] + got[1], 1) << order;
  }
}

__global__ void shuffle(int* out) {
  const int l = static_cast<int>(threadIdx.x % 32);
  int* const mine = out + threadIdx.x * 7;
  mine[0] = __shfl_sync(kAll, 10 * l, 5);
  mine[1] = __shfl_sync(kAll, 10 * l, 3, 8);
  mine[2] = __shfl_down_sync(kAll, 10 * l, 3);
  mine[3] = __shfl_down_sync(kAll, 10 * l, 3, 8);
  mine[4] = __shfl_up_sync(kAll, 10 * l, 2, 16);
  mine[5] = __shfl_xor_sync(kAll, 10 * l, 9);
  mine[6] = __shfl_xor_sync(kAll, 10 * l, 8, 8);
}

TEST(DeviceLanguageTest, ShufflesReadTheLaneTheyName) {
  const DeviceArray<int> out(64 * 7);
  shuffle<<<1, 64>>>(out.data());
  const std::vector<int> got = out.values();
  for (int thread = 0; thread < 64; ++thread) {
    const int l = thread % 32;
    const int from[7] = {
        5,     l / 8 * 8 + 3,         l + 3 < 32 ? l + 3 : l, l % 8 + 3 < 8 ? l + 3 : l, l % 16 >= 2 ? l - 2 : l,
        l ^ 9, l % 16 < 8 ? l : l - 8};  // a later segment is not read, an earlier one is
    for (int i = 0; i < 7; ++i) EXPECT_EQ(got[thread * 7 + i], 10 * from[i]) << "lane " << l << ", shuffle " << i;
  }
}

/// Lanes part ways and meet again, after different numbers of exchanges.
__global__ void part_ways(int* out) {
  const int l = static_cast<int>(threadIdx.x);
  int value = l;
  if (l < 16) {
    for (int i = 0; i < 3; ++i) value = __shfl_xor_sync(0xffffu, value, 1 << i);
  }
  out[l] = __shfl_xor_sync(kAll, value, 16);
  out[32 + l] = l < 16 ? __shfl_sync(0xffffu, l, 20) : 0;  // of a lane that takes no part
}

TEST(DeviceLanguageTest, PartsOfAWarpExchangeByThemselves) {
  const DeviceArray<int> out(64);
  part_ways<<<1, 32>>>(out.data());
  const std::vector<int> got = out.values();
  for (int l = 0; l < 32; ++l) {
    EXPECT_EQ(got[l], l < 16 ? l + 16 : (l - 16) ^ 7);
    EXPECT_EQ(got[32 + l], l < 16 ? -1 : 0) << "undefined in CUDA: garbage here";
  }
}

__global__ void vote(unsigned* out) {
  const unsigned thread = threadIdx.x, l = thread % 32;
  unsigned* const mine = out + thread * 9;
  mine[0] = __ballot_sync(kAll, l % 3 == 0);
  mine[1] = static_cast<unsigned>(__any_sync(kAll, thread == 40));
  mine[2] = static_cast<unsigned>(__all_sync(kAll, thread != 40));
  mine[3] = __match_any_sync(kAll, l / 4);
  mine[4] = __reduce_add_sync(kAll, l);
  mine[5] = __reduce_max_sync(kAll, thread ^ 5u);
  mine[6] = static_cast<unsigned>(__syncthreads_count(thread < 5));
  mine[7] = static_cast<unsigned>(__syncthreads_and(thread != 3));
  mine[8] = static_cast<unsigned>(__syncthreads_or(thread == 3));
}

TEST(DeviceLanguageTest, VotesAreOfTheWarpOrTheBlock) {
  const DeviceArray<unsigned> out(64 * 9);
  vote<<<1, 64>>>(out.data());
  const std::vector<unsigned> got = out.values();
  for (unsigned thread = 0; thread < 64; ++thread) {
    const unsigned warp = thread / 32, l = thread % 32;
    const unsigned expected[9] = {0x49249249u, warp, 1 - warp, 0xfu << (l / 4 * 4), 496, warp == 0 ? 31u : 63u,
                                  5,           0,    1};
    for (unsigned i = 0; i < 9; ++i) EXPECT_EQ(got[thread * 9 + i], expected[i]) << "thread " << thread << ", " << i;
  }
}

/// Threads that ended hold nobody back.
__global__ void end_early(int* out) {
  if (threadIdx.x >= 40) return;
  if (threadIdx.x % 32 >= 8) return;
  __syncwarp();
  out[threadIdx.x] = __syncthreads_count(1);
}

TEST(DeviceLanguageTest, ThreadsThatEndedAreNotWaitedFor) {
  const DeviceArray<int> out(40);
  end_early<<<1, 64>>>(out.data());
  EXPECT_EQ(out.values()[39], 16);
  EXPECT_EQ(out.values()[8], 0);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

__global__ void count(unsigned* sums, float* total, unsigned long long* big) {
  atomicAdd(sums, threadIdx.x);
  atomicMax(sums + 1, threadIdx.x);
  atomicMin(sums + 2, threadIdx.x);
  if (atomicCAS(sums + 3, 0u, threadIdx.x + 1) == 0) atomicExch(sums + 4, threadIdx.x + 7);
  atomicAdd(total, 0.5f);
  atomicAdd(big, 1ull << 40);
}

TEST(DeviceLanguageTest, AtomicsLoseNothing) {
  const DeviceArray<unsigned> sums(std::vector<unsigned>{0, 0, 100, 0, 0});
  const DeviceArray<float> total(1);
  const DeviceArray<unsigned long long> big(1);
  count<<<3, 64>>>(sums.data(), total.data(), big.data());
  EXPECT_EQ(sums.values(), (std::vector<unsigned>{3 * 2016, 63, 0, 1, 7}));
  EXPECT_EQ(total.values()[0], 96);
  EXPECT_EQ(big.values()[0], 192ull << 40);
}

__global__ void compute(const __nv_bfloat16* in, float* out) {
  const float2 two = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(in));
  out[0] = two.x + two.y;
  out[1] = rsqrtf(__ldg(out + 1));
  out[2] = static_cast<float>(__popc(0xf0u) * 10000 + __clz(1) * 100 + __ffs(8));
  out[3] = static_cast<float>(__clz(0) + warpSize + min(3, -4) + max(7, 2));
  out[4] = static_cast<float>(sizeof(exp(out[3])));
}

TEST(DeviceLanguageTest, FunctionsOfDeviceCode) {
  const DeviceArray<__nv_bfloat16> in(std::vector{__float2bfloat16_rn(1.5f), __float2bfloat16_rn(2.25f)});
  const DeviceArray<float> out(std::vector<float>{0, 16, 0, 0, 0});
  compute<<<1, 1>>>(in.data(), out.data());
  EXPECT_EQ(out.values(), (std::vector<float>{3.75f, 0.25f, 43104, 67, 4}));
}

}  // namespace
}  // namespace moe::cuda_host::testing
