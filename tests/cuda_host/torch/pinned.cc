#include "cuda_host/torch/pinned.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace moe::cuda_host {
namespace {

struct Pieces {
  std::mutex mutex;
  std::map<const char*, size_t> bytes;
};

Pieces& pieces() {
  static auto* const pieces = new Pieces;
  return *pieces;
}

void give_back(void* data) {
  if (data == nullptr) return;
  {
    const std::lock_guard<std::mutex> lock(pieces().mutex);
    pieces().bytes.erase(static_cast<const char*>(data));
  }
  std::free(data);
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &give_back, c10::kCPU};
    void* const data = std::malloc(bytes);
    TORCH_CHECK(data != nullptr, "no ", bytes, " bytes of pinned memory");
    std::memset(data, 0xff, bytes);
    const std::lock_guard<std::mutex> lock(pieces().mutex);
    pieces().bytes[static_cast<const char*>(data)] = bytes;
    return {data, data, &give_back, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

c10::Allocator& pinned_allocator() {
  static auto* const allocator = new PinnedAllocator;
  return *allocator;
}

bool is_pinned(const void* data) {
  const std::lock_guard<std::mutex> lock(pieces().mutex);
  const auto next = pieces().bytes.upper_bound(static_cast<const char*>(data));
  if (next == pieces().bytes.begin()) return false;
  const auto& [begin, bytes] = *std::prev(next);
  return data < begin + bytes;
}

}  // namespace moe::cuda_host
