#include "cuda_host/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "cuda_host/fibers.h"
#include "cuda_host/sanitizers.h"
#include "cuda_host/settings.h"

namespace moe::cuda_host {
namespace {

constexpr size_t kArenaBytes = size_t{16} << 30;  // of addresses; memory is taken as it is touched
constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;  // of cudaMalloc; here also the least that lies between two pieces
constexpr char kFence = '\x5a';     // what the bytes around a piece hold

struct Piece {
  size_t bytes;  // as asked for
  size_t room;   // of whole pages, with the fences: kAlignment in front, the rest behind
};

size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

/// One range of addresses for all pieces, so that one call opens or closes it.
class Arena {
 public:
  static Arena& instance() {
    static Arena* const arena = new Arena;  // for ever: threads may free memory while the process ends
    return *arena;
  }

  void open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--open_ == 0) protect(PROT_NONE);
  }

  char* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::optional<size_t> limit = memory_limit();
    if (bytes > kArenaBytes || (limit && held_ + bytes > *limit)) return nullptr;
    const size_t room = round_up(bytes + 2 * kAlignment, kPage);
    char* const data = base_ == nullptr ? take_from_malloc(bytes) : take_room(room);
    if (data == nullptr) return nullptr;
    pieces_[data] = {bytes, room};
    held_ += bytes;
    return data;
  }

  /// The piece that holds this address; its data is null where none does.
  std::pair<char*, Piece> piece_of(const void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto next = pieces_.upper_bound(static_cast<char*>(const_cast<void*>(address)));
    if (next == pieces_.begin()) return {};
    const auto& [data, piece] = *std::prev(next);
    return address < data + std::max<size_t>(piece.bytes, 1) ? std::pair(data, piece) : std::pair<char*, Piece>{};
  }

  void put_back(char* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = pieces_.find(data);
    if (base_ == nullptr) {
      std::free(data);
    } else {
      madvise(data - kAlignment, entry->second.room, MADV_DONTNEED);  // protecting costs by the page that is there
      free_[entry->second.room].push_back(data);
    }
    held_ -= entry->second.bytes;
    pieces_.erase(entry);
  }

  bool has_fences() const { return base_ != nullptr; }

 private:
  Arena() {
    if (has_address_sanitizer() || has_thread_sanitizer()) return;
    void* const mapping = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(mapping);
  }

  static char* take_from_malloc(size_t bytes) {
    void* data = nullptr;  // of exactly these bytes, so that a sanitizer sees the first that is too much
    return posix_memalign(&data, kAlignment, std::max<size_t>(bytes, 1)) == 0 ? static_cast<char*>(data) : nullptr;
  }

  char* take_room(size_t room) {
    if (auto& same = free_[room]; !same.empty()) {
      char* const data = same.back();
      same.pop_back();
      return data;
    }
    if (top_ + room > kArenaBytes) return nullptr;
    char* const data = base_ + top_ + kAlignment;
    top_ += room;
    if (open_ > 0) protect(PROT_READ | PROT_WRITE);
    return data;
  }

  void protect(int allowed) {
    if (base_ != nullptr && top_ > 0 && mprotect(base_, top_, allowed) != 0) std::abort();
  }

  std::mutex mutex_;
  char* base_ = nullptr;
  size_t top_ = 0;
  size_t held_ = 0;  // as asked for
  int open_ = 0;
  std::map<size_t, std::vector<char*>> free_;  // by room
  std::map<char*, Piece> pieces_;
};

bool is_fence(const char* begin, const char* end) {
  return std::all_of(begin, end, [](char byte) { return byte == kFence; });
}

}  // namespace

Access::Access() {
  Arena::instance().open();
}
Access::~Access() {
  Arena::instance().close();
}

void* device_malloc(size_t bytes) {
  char* const data = Arena::instance().take(bytes);
  if (data == nullptr) return nullptr;
  const Access access;
  if (Arena::instance().has_fences()) {
    char* const begin = data - kAlignment;
    std::memset(begin, kFence, round_up(bytes + 2 * kAlignment, kPage));
  }
  std::memset(data, 0xff, bytes);
  return data;
}

void device_free(void* data) {
  Arena& arena = Arena::instance();
  const auto [begin, piece] = arena.piece_of(data);
  if (begin == nullptr || begin != data) throw Fault(cudaErrorInvalidValue, "a free of what is not device memory");
  bool is_intact = true;
  if (arena.has_fences()) {
    const Access access;
    is_intact = is_fence(begin - kAlignment, begin) && is_fence(begin + piece.bytes, begin - kAlignment + piece.room);
  }
  arena.put_back(begin);
  if (!is_intact) {
    throw Fault(cudaErrorIllegalAddress,
                "the bytes around a piece of device memory of " + std::to_string(piece.bytes) + " bytes were written");
  }
}

bool is_device_memory(const void* data) {
  return Arena::instance().piece_of(data).first != nullptr;
}

}  // namespace moe::cuda_host
