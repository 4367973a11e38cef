#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

/// Streams that are lazy: work runs when somebody waits for it, on the thread that waits, which is the latest moment
/// that CUDA allows: a missing wait shows as stale data. But where work waits for other processes, as that of NCCL
/// does, a thread of the stream's own runs it. The default stream is the legacy one: its work waits for the earlier
/// work of every blocking stream of the device, and theirs for its. Thread-safe.
namespace moe::cuda_host {

/// What cudaStream_t points to; never freed, so that an event may outlive it.
struct Stream {
  Stream(int device, bool is_blocking) : device(device), is_blocking(is_blocking) {}

  const int device;
  const bool is_blocking;
  std::mutex mutex;  // of what follows
  std::condition_variable moved;
  std::deque<std::function<void()>> work;
  uint64_t queued = 0, done = 0;
  bool is_running = false;  // some thread does a piece of its work
  bool has_worker = false;  // its own thread does, and nobody else
};

/// A position in a stream. Waited for when all work before it is done.
struct Mark {
  Stream* stream = nullptr;  // null: nothing to wait for
  uint64_t count = 0;
};

/// On the current device.
Stream& create_stream(bool is_blocking);

/// Null and cudaStreamLegacy: the default stream of the current device.
Stream& stream_of(cudaStream_t stream);

/// Appends work to a stream; it runs with device memory open. What it throws as Fault loses the device.
void enqueue(cudaStream_t stream, std::function<void()> work);

/// The end of what is queued now.
Mark end_of(Stream& stream);

/// Runs work, or waits for a thread that does, until the mark is reached.
void wait_for(const Mark& mark);

/// Whether it is reached. Runs nothing.
bool is_done(const Mark& mark);

/// Runs the next piece of work before the mark, if there is one that nobody runs: who asks again and again sees a
/// stream go on.
void advance(const Mark& mark);

/// From now on a thread of the stream's own does its work, as soon as it can.
void give_worker(Stream& stream);

/// Waits for every stream of the current device.
void synchronize();

}  // namespace moe::cuda_host
