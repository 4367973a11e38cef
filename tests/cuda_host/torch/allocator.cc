#include "cuda_host/torch/allocator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_host/memory.h"
#include "cuda_host/streams.h"
#include "cuda_host/torch/streams.h"

namespace moe::cuda_host {
namespace {

constexpr size_t kRounding = 512;  // kMinBlockSize of CUDACachingAllocator

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
  cudaStream_t owner = nullptr;
  c10::DeviceIndex device = 0;
  std::vector<Mark> used_until;  ///< on other streams
};

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t asked) override {
    const c10::Device device = current_torch_device();
    if (asked == 0) return {nullptr, nullptr, &give_back, device};
    const cudaStream_t stream = native_stream(current_torch_stream(device));
    const size_t bytes = (asked + kRounding - 1) / kRounding * kRounding;
    const std::lock_guard<std::mutex> lock(mutex_);
    collect();
    Block block = cached(bytes, stream, device.index());
    if (block.data == nullptr) {
      block = {device_malloc(bytes), bytes, stream, device.index(), {}};
      TORCH_CHECK_WITH(OutOfMemoryError, block.data != nullptr, "CUDA out of memory: cuda_host has no ", bytes,
                       " bytes left");
      ++taken_;
    }
    void* const data = block.data;
    in_use_[data] = std::move(block);
    return {data, data, &give_back, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    enqueue(native_stream(current_torch_stream(current_torch_device())), [=] { std::memcpy(to, from, bytes); });
  }

  void use(const void* data, cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = in_use_.find(const_cast<void*>(data));
    TORCH_CHECK(entry != in_use_.end(), "record_stream of what is not a block of this allocator");
    if (stream != entry->second.owner) used_on_[entry->first].push_back(stream);
  }

  int64_t taken() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return taken_;
  }

 private:
  static void give_back(void* data);

  void put_back(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = in_use_.find(data);
    Block block = std::move(entry->second);
    in_use_.erase(entry);
    // Until here, and no longer, the other streams were promised the memory.
    for (const cudaStream_t stream : std::exchange(used_on_[data], {}))
      block.used_until.push_back(end_of(stream_of(stream)));
    used_on_.erase(data);
    if (block.used_until.empty()) {
      forget(block);
      free_.push_back(std::move(block));
    } else {
      waiting_.push_back(std::move(block));
    }
  }

  /// In stream order, as its next owner will write it.
  static void forget(const Block& block) {
    enqueue(block.owner, [data = block.data, bytes = block.bytes] { std::memset(data, 0xff, bytes); });
  }

  /// Those whose other streams are done with them.
  void collect() {
    for (auto block = waiting_.begin(); block != waiting_.end();) {
      if (!std::all_of(block->used_until.begin(), block->used_until.end(), is_done)) {
        ++block;
        continue;
      }
      block->used_until.clear();
      forget(*block);
      free_.push_back(std::move(*block));
      block = waiting_.erase(block);
    }
  }

  /// The smallest that fits and is not half empty.
  Block cached(size_t bytes, cudaStream_t stream, c10::DeviceIndex device) {
    auto best = free_.end();
    for (auto block = free_.begin(); block != free_.end(); ++block) {
      if (block->owner != stream || block->device != device || block->bytes < bytes || block->bytes > 2 * bytes)
        continue;
      if (best == free_.end() || block->bytes < best->bytes) best = block;
    }
    if (best == free_.end()) return {};
    Block block = std::move(*best);
    free_.erase(best);
    return block;
  }

  std::mutex mutex_;
  std::map<void*, Block> in_use_;
  std::map<void*, std::vector<cudaStream_t>> used_on_;
  std::list<Block> free_, waiting_;
  int64_t taken_ = 0;
};

/// For ever: tensors of static variables are freed while the process ends.
CachingAllocator& allocator() {
  static auto* const allocator = new CachingAllocator;
  return *allocator;
}

void CachingAllocator::give_back(void* data) {
  if (data != nullptr) allocator().put_back(data);
}

}  // namespace

c10::Allocator& torch_allocator() {
  return allocator();
}

void use_on_stream(const void* data, c10::Stream stream) {
  if (data != nullptr) allocator().use(data, native_stream(stream));
}

int64_t device_allocations() {
  return allocator().taken();
}

}  // namespace moe::cuda_host
