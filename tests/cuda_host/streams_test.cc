// Streams run as late as CUDA allows, memory knows whose it is, and errors have CUDA's words.
#include "cuda_host/streams.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "cuda_host/device_array.h"

namespace moe::cuda_host::testing {
namespace {

cudaStream_t make_stream(unsigned flags) {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, flags), cudaSuccess);
  return stream;
}

/// Appends `name` to `log` when its turn comes.
void note(cudaStream_t stream, std::string& log, char name) {
  enqueue(stream, [&log, name] { log += name; });
}

TEST(StreamsTest, AReadBeforeAWaitIsStale) {
  const DeviceArray<int> array(std::vector<int>{5});
  const cudaStream_t stream = make_stream(cudaStreamNonBlocking);
  int got = -1;
  EXPECT_EQ(cudaMemcpyAsync(&got, array.data(), sizeof(int), cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(got, -1);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(got, 5);
}

TEST(StreamsTest, ANonBlockingStreamDoesNotWaitForTheDefaultOne) {
  std::string log;
  const cudaStream_t stream = make_stream(cudaStreamNonBlocking);
  note(nullptr, log, 'd');
  note(stream, log, 's');
  cudaStreamSynchronize(stream);
  EXPECT_EQ(log, "s");
  cudaDeviceSynchronize();
  EXPECT_EQ(log, "sd");
}

TEST(StreamsTest, TheDefaultStreamAndBlockingOnesWaitForEachOther) {
  std::string log;
  const cudaStream_t stream = make_stream(cudaStreamDefault);
  note(stream, log, 'a');
  note(nullptr, log, 'b');
  note(stream, log, 'c');
  cudaStreamSynchronize(stream);
  EXPECT_EQ(log, "abc");
  note(stream, log, 'd');
  cudaStreamSynchronize(nullptr);
  EXPECT_EQ(log, "abcd");
}

TEST(StreamsTest, EventsOrderStreams) {
  std::string log;
  const cudaStream_t first = make_stream(cudaStreamNonBlocking), second = make_stream(cudaStreamNonBlocking);
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(second, event, 0), cudaSuccess) << "recorded nowhere: nothing to wait for";
  note(first, log, 'a');
  EXPECT_EQ(cudaEventRecord(event, first), cudaSuccess);
  note(first, log, 'b');
  EXPECT_EQ(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
  note(second, log, 'c');
  EXPECT_EQ(cudaEventRecord(event, second), cudaSuccess) << "who waits already waits for the earlier place";
  cudaStreamSynchronize(second);
  EXPECT_EQ(log, "ac");
  note(first, log, 'd');
  EXPECT_EQ(cudaEventRecord(event, first), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(log, "acbd");
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST(StreamsTest, ThreadsThatWaitForOneStreamRunItsWorkOnceAndInOrder) {
  constexpr int kPieces = 500;
  const cudaStream_t stream = make_stream(cudaStreamNonBlocking);
  std::vector<int> order;  // unguarded: one piece runs at a time
  std::atomic<int> too_early = 0;
  for (int i = 0; i < kPieces; ++i) enqueue(stream, [&order, i] { order.push_back(i); });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      cudaStreamSynchronize(stream);
      too_early += order.size() != kPieces;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(too_early, 0);
  for (int i = 0; i < kPieces; ++i) EXPECT_EQ(order[i], i);
}

TEST(MemoryTest, IsGarbageUntilWrittenAndAlignedNoBetterThanCudaPromises) {
  int* data = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), 3 * sizeof(int)), cudaSuccess);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 512, 256u);
  int got[3];
  cudaMemcpy(got, data, sizeof(got), cudaMemcpyDeviceToHost);
  EXPECT_EQ(got[2], -1);
  cudaMemset(data, 0, sizeof(int));
  cudaMemset2DAsync(data + 1, sizeof(int), 1, 1, 2, nullptr);
  cudaMemcpy(got, data, sizeof(got), cudaMemcpyDeviceToHost);
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[1], static_cast<int>(0xffffff01u));
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaErrorInvalidValue) << "twice";
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), size_t{1} << 40), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
}

TEST(MemoryTest, ACopyHasTheDirectionItSays) {
  const DeviceArray<int> array(1);
  int host = 0;
  EXPECT_EQ(cudaMemcpy(array.data(), &host, sizeof(int), cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(&host, array.data(), sizeof(int), cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(&host, array.data(), sizeof(int), cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(&host, array.data(), sizeof(int), cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST(MemoryTest, OfAStreamIsFreedInItsTurn) {
  const cudaStream_t stream = make_stream(cudaStreamNonBlocking);
  void* data = nullptr;
  ASSERT_EQ(cudaMallocAsync(&data, 16, stream), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(data, 1, 16, stream), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(data, stream), cudaSuccess) << "what is queued may use it";
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaErrorInvalidValue) << "gone";
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

/// The runtime itself answers without a GPU.
TEST(ErrorNamesTest, AreThoseOfTheCudaRuntime) {
  void* const runtime = dlopen(MOE_REAL_CUDART, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  ASSERT_NE(runtime, nullptr) << dlerror();
  using Words = const char* (*)(cudaError_t);
  const auto real_name = reinterpret_cast<Words>(dlsym(runtime, "cudaGetErrorName"));
  const auto real_text = reinterpret_cast<Words>(dlsym(runtime, "cudaGetErrorString"));
  ASSERT_NE(real_name, &cudaGetErrorName);
  const std::string unknown = cudaGetErrorName(static_cast<cudaError_t>(12345));
  EXPECT_EQ(unknown, real_name(static_cast<cudaError_t>(12345)));
  int known = 0;
  for (int number = 0; number < 1000; ++number) {
    const auto error = static_cast<cudaError_t>(number);
    if (cudaGetErrorName(error) == unknown) continue;
    EXPECT_STREQ(cudaGetErrorName(error), real_name(error));
    EXPECT_STREQ(cudaGetErrorString(error), real_text(error));
    ++known;
  }
  EXPECT_GE(known, 11);
}

}  // namespace
}  // namespace moe::cuda_host::testing
