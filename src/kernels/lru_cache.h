#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace moe::kernels {

/// Keeps the values last used, at most `capacity`, under keys of N integers. Thread-safe. Values are handed out as
/// copies (hold a shared_ptr to what is large), so one in use survives being dropped.
template <size_t N, typename Value>
class LruCache {
 public:
  using Key = std::array<int64_t, N>;

  explicit LruCache(size_t capacity) : capacity_(capacity) {}

  /// The value under `key`; where there is none, `make()` gives it, outside the lock: other threads go on meanwhile,
  /// and of two that make the same one the first is kept.
  template <typename Make>
  Value get(const Key& key, Make&& make) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (const auto found = index_.find(key); found != index_.end()) {
        order_.splice(order_.begin(), order_, found->second);
        return found->second->second;
      }
    }
    Value made = make();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      return found->second->second;
    }
    order_.emplace_front(key, std::move(made));
    index_.emplace(key, order_.begin());
    if (order_.size() > capacity_) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    return order_.front().second;
  }

 private:
  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over words, with a shift since sizes are small multiples of 2
      for (const int64_t word : key) {
        hash = (hash ^ static_cast<uint64_t>(word)) * 0x100000001b3u;
        hash ^= hash >> 29;
      }
      return hash;
    }
  };
  using Entry = std::pair<Key, Value>;

  const size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> order_;  // most recently used first
  std::unordered_map<Key, typename std::list<Entry>::iterator, Hash> index_;
};

}  // namespace moe::kernels
