#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <functional>

/// What a piece of work holds in tensors, for tests that promise a bound: counted where tensors get their memory, so
/// that the figure is the code's own, whatever the allocator, the page size and other programs do to the process's
/// resident memory. Mapped files and memory that no tensor owns do not count.
namespace moe::testing {

/// Hands allocations on and counts their bytes. One for the process, for ever: blocks may outlive whoever counts.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& instance() {
    static auto* const allocator = new CountingAllocator(c10::GetCPUAllocator());
    return *allocator;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto* const block = new Block{base_->allocate(bytes), bytes};
    const int64_t live = live_ += static_cast<int64_t>(bytes);
    for (int64_t peak = peak_; live > peak && !peak_.compare_exchange_weak(peak, live);) {
    }
    return {block->memory.get(), block, &release, block->memory.device()};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }
  void start_peak() { peak_ = live_.load(); }

 private:
  struct Block {
    c10::DataPtr memory;
    size_t bytes;
  };

  explicit CountingAllocator(c10::Allocator* base) : base_(base) { c10::SetCPUAllocator(this, /*priority=*/200); }

  static void release(void* context) {
    auto* const block = static_cast<Block*>(context);
    instance().live_ -= static_cast<int64_t>(block->bytes);
    delete block;
  }

  c10::Allocator* const base_;
  std::atomic<int64_t> live_{0}, peak_{0};
};

/// The most bytes of tensors, above those before it, that live at once while `work` runs: on all threads.
inline double peak_tensor_bytes(const std::function<void()>& work) {
  CountingAllocator& allocator = CountingAllocator::instance();
  const int64_t before = allocator.live();
  allocator.start_peak();
  work();
  return static_cast<double>(allocator.peak() - before);
}

}  // namespace moe::testing
