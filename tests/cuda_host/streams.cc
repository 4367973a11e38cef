#include "cuda_host/streams.h"

#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_host/device.h"
#include "cuda_host/memory.h"

namespace moe::cuda_host {
namespace {

std::mutex streams_mutex;

/// The current device's; the first is the default stream. Locked by the caller.
std::vector<Stream*>& streams_here() {
  static auto* const streams = new std::map<int, std::vector<Stream*>>;
  std::vector<Stream*>& here = (*streams)[current_device()];
  if (here.empty()) here.push_back(new Stream(current_device(), true));
  return here;
}

std::vector<Stream*> copy_of_streams() {
  const std::lock_guard<std::mutex> lock(streams_mutex);
  return streams_here();
}

void push(Stream& stream, std::function<void()> work) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  stream.work.push_back(std::move(work));
  ++stream.queued;
  if (stream.has_worker) stream.moved.notify_all();
}

/// Does the next piece of work, which is there and which nobody does; `lock` is of the stream.
void run_next(Stream& stream, std::unique_lock<std::mutex>& lock) {
  const auto work = std::move(stream.work.front());
  stream.work.pop_front();
  stream.is_running = true;
  lock.unlock();
  if (device_status() == cudaSuccess) {
    try {
      const Access access;
      work();
    } catch (const Fault& fault) {
      lose_device(fault);
    }
  }
  lock.lock();
  stream.is_running = false;
  ++stream.done;
  stream.moved.notify_all();
}

}  // namespace

Stream& create_stream(bool is_blocking) {
  auto* const stream = new Stream(current_device(), is_blocking);
  const std::lock_guard<std::mutex> lock(streams_mutex);
  streams_here().push_back(stream);
  return *stream;
}

Stream& stream_of(cudaStream_t stream) {
  if (stream != nullptr && stream != cudaStreamLegacy) return *reinterpret_cast<Stream*>(stream);
  const std::lock_guard<std::mutex> lock(streams_mutex);
  return *streams_here().front();
}

void enqueue(cudaStream_t to, std::function<void()> work) {
  Stream& stream = stream_of(to);
  Stream& legacy = stream_of(nullptr);
  if (&stream == &legacy) {
    for (Stream* const other : copy_of_streams()) {
      if (other != &legacy && other->is_blocking) push(legacy, [mark = end_of(*other)] { wait_for(mark); });
    }
  } else if (stream.is_blocking) {
    push(stream, [mark = end_of(legacy)] { wait_for(mark); });
  }
  push(stream, std::move(work));
}

Mark end_of(Stream& stream) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  return {&stream, stream.queued};
}

void wait_for(const Mark& mark) {
  if (mark.stream == nullptr) return;
  Stream& stream = *mark.stream;
  std::unique_lock<std::mutex> lock(stream.mutex);
  while (stream.done < mark.count) {
    if (stream.is_running || stream.has_worker) {
      stream.moved.wait(lock);
    } else {
      run_next(stream, lock);
    }
  }
}

bool is_done(const Mark& mark) {
  if (mark.stream == nullptr) return true;
  const std::lock_guard<std::mutex> lock(mark.stream->mutex);
  return mark.stream->done >= mark.count;
}

void advance(const Mark& mark) {
  if (mark.stream == nullptr) return;
  Stream& stream = *mark.stream;
  std::unique_lock<std::mutex> lock(stream.mutex);
  if (stream.done < mark.count && !stream.is_running && !stream.has_worker) run_next(stream, lock);
}

void give_worker(Stream& stream) {
  {
    const std::lock_guard<std::mutex> lock(stream.mutex);
    if (std::exchange(stream.has_worker, true)) return;
  }
  std::thread([&stream] {
    current_device() = stream.device;
    std::unique_lock<std::mutex> lock(stream.mutex);
    while (true) {
      stream.moved.wait(lock, [&] { return !stream.work.empty() && !stream.is_running; });
      run_next(stream, lock);
    }
  }).detach();
}

void synchronize() {
  for (Stream* const stream : copy_of_streams()) wait_for(end_of(*stream));
}

}  // namespace moe::cuda_host
