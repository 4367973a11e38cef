// What is wrong is found, and has the error that CUDA has for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <functional>
#include <string>

#include "cuda_host/device_array.h"

namespace moe::cuda_host::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

/// What a lost device says, with the error that it then reports; the device is whole again afterwards.
struct Lost {
  cudaError_t error;
  std::string said;
};
Lost after(const std::function<void()>& work) {
  CaptureStderr();
  work();
  const cudaError_t error = cudaDeviceSynchronize();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(cudaGetLastError(), error) << "it stays, however often it is asked for";
  cudaDeviceReset();
  return {error, GetCapturedStderr()};
}

__global__ void nothing() {}

__global__ void use_shared(char* out, int bytes) {
  extern __shared__ char buffer[];
  buffer[bytes - 1] = 7;
  out[0] = buffer[bytes - 1];
}

TEST(DeviceLimitsTest, OfGridsAndBlocks) {
  const auto error_of = [](dim3 grid, dim3 block) {
    nothing<<<grid, block>>>();
    return cudaGetLastError();
  };
  EXPECT_EQ(error_of(1, 1024), cudaSuccess);
  EXPECT_EQ(error_of(1, dim3(4, 4, 64)), cudaSuccess);
  EXPECT_EQ(error_of(1, 1025), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(1, dim3(32, 33)), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(1, dim3(1, 1, 65)), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(0, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(dim3(1, 65536), 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(dim3(1, 1, 65536), 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(error_of(1u << 31, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "an error is reported once";
}

TEST(DeviceLimitsTest, MoreThan48KilobytesOfSharedMemoryAreAskedFor) {
  const DeviceArray<char> out(1);
  const auto error_of = [&](int bytes) {
    use_shared<<<1, 1, bytes>>>(out.data(), bytes);
    return cudaGetLastError();
  };
  EXPECT_EQ(error_of(48 << 10), cudaSuccess);
  EXPECT_EQ(error_of((48 << 10) + 1), cudaErrorInvalidValue);
  const auto allow = [](int bytes) {
    return cudaFuncSetAttribute(use_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  EXPECT_EQ(allow(228 << 10), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(allow(100 << 10), cudaSuccess);
  EXPECT_EQ(error_of(100 << 10), cudaSuccess);
  EXPECT_EQ(error_of((100 << 10) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(out.values()[0], 7);
}

TEST(DeviceLimitsTest, AStreamIsOfOneDevice) {
  setenv("MOE_CUDA_HOST_DEVICES", "2", 1);
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  nothing<<<1, 1, 0, stream>>>();
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
  unsetenv("MOE_CUDA_HOST_DEVICES");
}

TEST(DeviceLimitsTest, MemoryEndsWhereTheEnvironmentSays) {
  setenv("MOE_CUDA_HOST_MEMORY", "1", 1);
  void *half = nullptr, *more = nullptr;
  EXPECT_EQ(cudaMalloc(&half, 512 << 10), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, (512 << 10) + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(half), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, 1 << 20), cudaSuccess) << "what was freed is there again";
  EXPECT_EQ(cudaFree(more), cudaSuccess);
  unsetenv("MOE_CUDA_HOST_MEMORY");
}

/// Thread 70 leaves the others alone at the barrier, but does not end.
__global__ void part_at_a_barrier(int* out) {
  if (threadIdx.x == 70) {
    __syncwarp(1u << 6);
    out[0] = __syncthreads_count(1);
  } else {
    __syncthreads();
  }
}

__global__ void wait_for_a_lane() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

TEST(DeviceFaultTest, AWaitForWhatCannotComeIsNamed) {
  const DeviceArray<int> out(1);
  const Lost at_block = after([&] { part_at_a_barrier<<<2, 96>>>(out.data()); });
  EXPECT_EQ(at_block.error, cudaErrorLaunchTimeout);
  EXPECT_THAT(at_block.said, HasSubstr("block (0, 0, 0), thread (0, 0, 0) waits for ever in __syncthreads"));
  const Lost at_warp = after([] { wait_for_a_lane<<<1, 32>>>(); });
  EXPECT_EQ(at_warp.error, cudaErrorLaunchTimeout);
  EXPECT_THAT(at_warp.said, HasSubstr("waits for ever in __syncwarp"));
}

__global__ void shuffle_outside_the_mask(int* out) {
  out[threadIdx.x] = __shfl_sync(0xffffu, 1, 0);
}

TEST(DeviceFaultTest, ALaneOutsideItsMaskIsNamed) {
  const DeviceArray<int> out(32);
  const Lost lost = after([&] { shuffle_outside_the_mask<<<1, 32>>>(out.data()); });
  EXPECT_EQ(lost.error, cudaErrorLaunchFailure);
  EXPECT_THAT(lost.said, HasSubstr("thread (16, 0, 0): __shfl_sync by a lane outside its mask"));
}

template <typename Wide>
__global__ void load_wide(const char* from, Wide* to) {
  *to = *reinterpret_cast<const Wide*>(from);
}

template <typename Wide>
void expect_misaligned(const char* bytes) {
  const DeviceArray<char> from(2 * sizeof(Wide) + 16);
  const DeviceArray<Wide> to(1);
  const Lost good = after([&] { load_wide<Wide><<<1, 1>>>(from.data() + sizeof(Wide), to.data()); });
  EXPECT_EQ(good.error, cudaSuccess);
  const Lost bad = after([&] { load_wide<Wide><<<1, 1>>>(from.data() + sizeof(Wide) / 2, to.data()); });
  EXPECT_EQ(bad.error, cudaErrorMisalignedAddress);
  EXPECT_THAT(bad.said, HasSubstr(std::string("an access that needs ") + bytes + " bytes of alignment"));
  EXPECT_THAT(bad.said, HasSubstr("faults_test.cu:"));
}

struct alignas(16) Pack {
  float items[4];
};

TEST(DeviceFaultTest, AMisalignedVectorAccessIsNamed) {
  expect_misaligned<float4>("16");
  expect_misaligned<uint4>("16");
  expect_misaligned<float2>("8");
  expect_misaligned<__nv_bfloat162>("4");
  expect_misaligned<Pack>("16");
  expect_misaligned<double>("8");
}

__global__ void store(int* out, int at) {
  out[at] = 1;
}

TEST(DeviceFaultTest, WritingAroundAPieceOfMemoryIsFoundWhenItIsFreed) {
  for (const int at : {-1, 64}) {
    const Lost lost = after([&] {
      const DeviceArray<int> out(64);
      store<<<1, 1>>>(out.data(), at);
    });
    EXPECT_EQ(lost.error, cudaErrorIllegalAddress);
    EXPECT_THAT(lost.said, HasSubstr("device memory of 256 bytes"));
  }
}

TEST(DeviceFaultTest, ADeviceThatIsLostRunsNothingMore) {
  const DeviceArray<int> out(1);
  const Lost lost = after([&] {
    wait_for_a_lane<<<1, 32>>>();
    store<<<1, 1>>>(out.data(), 0);
  });
  EXPECT_NE(lost.error, cudaSuccess);
  EXPECT_EQ(out.values()[0], 0);
  store<<<1, 1>>>(out.data(), 0);
  EXPECT_EQ(out.values()[0], 1) << "after a reset";
}

TEST(DeviceFaultDeathTest, TheHostCannotTouchDeviceMemory) {
  const DeviceArray<int> out(1);
  EXPECT_EXIT(out.data()[0] = 1, ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(std::printf("%d", *static_cast<volatile int*>(out.data())), ::testing::KilledBySignal(SIGSEGV), "");
}

TEST(DeviceFaultDeathTest, DynamicSharedMemoryEndsWhereItWasAskedTo) {
  const DeviceArray<char> out(1);
  EXPECT_EXIT(
      {
        use_shared<<<1, 1, 256>>>(out.data(), 257);
        cudaDeviceSynchronize();
      },
      ::testing::KilledBySignal(SIGSEGV), "");
}

TEST(SettingsDeathTest, AValueThatMeansNothingEndsTheProcess) {
  EXPECT_EXIT(
      {
        setenv("MOE_CUDA_HOST_ORDER", "sideways", 1);
        nothing<<<1, 1>>>();
        cudaDeviceSynchronize();
      },
      ::testing::ExitedWithCode(64), "MOE_CUDA_HOST_ORDER is 'sideways'; expected forward, reverse or a number");
  EXPECT_EXIT(
      {
        setenv("MOE_CUDA_HOST_DEVICES", "two", 1);
        int count = 0;
        cudaGetDeviceCount(&count);
      },
      ::testing::ExitedWithCode(64), "MOE_CUDA_HOST_DEVICES is 'two'; expected a number of devices");
}

}  // namespace
}  // namespace moe::cuda_host::testing
