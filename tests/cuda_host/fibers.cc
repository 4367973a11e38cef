#include "cuda_host/fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "cuda_host/context.h"
#include "cuda_host/sanitizers.h"
#include "cuda_host/settings.h"

namespace moe::cuda_host {
namespace {

constexpr unsigned kWarp = 32;

enum class State { kNew, kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

using Slot = std::array<std::byte, kMaxExchangeBytes>;

struct Fiber {
  Context context;
  std::optional<Stack> stack;
  uint3 index{};
  State state = State::kNew;
  const char* waits_in = "";
  unsigned mask = 0;       // of the warp barrier that it waits at
  Slot offered{};          // what it brings there
  bool predicate = false;  // or to the block's
};

/// For the thread sanitizer, what orders those who meet: two objects in turn, so that who leaves late does not see what
/// the others did after the barrier.
struct Meeting {
  unsigned mask = 0, count = 0;
  char objects[2];
  void* object() { return &objects[count % 2]; }
};

struct Warp {
  std::array<Slot, kWarp> received{};  // of the latest meeting of each lane
  std::array<unsigned, kWarp> took_part{};
  std::array<Meeting, kWarp> meetings{};  // by mask: lanes of one mask meet as often as each other

  Meeting& meeting(unsigned mask) {
    for (Meeting& m : meetings) {
      if (m.mask == mask || m.mask == 0) {
        m.mask = mask;
        return m;
      }
    }
    fault(cudaErrorLaunchFailure, "more masks in one warp than this simulation keeps apart");
  }
};

/// Dynamic shared memory, whose end lies at a page that faults.
class SharedMemory {
 public:
  SharedMemory() {
    void* const mapping = mmap(nullptr, kRoom + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(static_cast<char*>(mapping) + kRoom, kGuard, PROT_NONE) != 0) {
      throw std::bad_alloc();
    }
    base_ = static_cast<char*>(mapping);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() { munmap(base_, kRoom + kGuard); }

  char* last(size_t bytes) { return base_ + kRoom - (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr size_t kAlignment = 128, kGuard = 4096, kRoom = (kMaxSharedBytes + 4095) / 4096 * 4096;
  char* base_;
};

/// What one OS thread needs to run blocks.
struct Multiprocessor {
  dim3 grid, block;
  uint3 block_index{};
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Stack> free_stacks;
  std::vector<Stack> left_stacks;  // by threads of this block; another of the same block on one would look like a race
  Context scheduler;
  Fiber* current = nullptr;
  const std::function<void()>* body = nullptr;
  std::optional<Fault> fault;
  Votes votes;
  Meeting block_meeting;
  char begins = 0, ends = 0;  // objects for the thread sanitizer
  SharedMemory shared;
  char* shared_begin = nullptr;
};

Multiprocessor& sm() {
  static thread_local Multiprocessor instance;
  return instance;
}

unsigned number(const Fiber& fiber) {
  return static_cast<unsigned>(&fiber - sm().fibers.data());
}

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}
std::string place(const Fiber& fiber) {
  return "block " + text(sm().block_index) + ", thread " + text(fiber.index);
}

void fiber_main() {
  Multiprocessor& m = sm();
  arrive(m.scheduler);
  observe(&m.begins);
  (*m.body)();
  publish(&m.ends);
  m.current->state = State::kDone;
  leave(m.current->context, m.scheduler);
}

void resume(Fiber& fiber) {
  Multiprocessor& m = sm();
  if (fiber.state == State::kNew) {
    if (m.free_stacks.empty()) m.free_stacks.emplace_back();
    fiber.stack = std::move(m.free_stacks.back());
    m.free_stacks.pop_back();
    begin(fiber.context, *fiber.stack, fiber_main);
  }
  fiber.state = State::kReady;
  m.current = &fiber;
  switch_context(m.scheduler, fiber.context);
  m.current = nullptr;
  if (fiber.state == State::kDone) {
    end(fiber.context);
    m.left_stacks.push_back(std::move(*fiber.stack));
    fiber.stack.reset();
  }
}

void wait(State state, const char* name, void* object) {
  Multiprocessor& m = sm();
  Fiber& self = *m.current;
  self.state = state;
  self.waits_in = name;
  publish(object);
  switch_context(self.context, m.scheduler);
  observe(object);
}

/// Whether the lanes of one warp that `first` waits for are all there, in the same function with the same mask.
bool is_complete(const Fiber& first, const Fiber* warp, unsigned lanes) {
  for (unsigned l = 0; l < lanes; ++l) {
    const Fiber& other = warp[l];
    if ((first.mask >> l & 1) == 0 || other.state == State::kDone) continue;
    if (other.state != State::kAtWarpBarrier || other.mask != first.mask ||
        std::strcmp(other.waits_in, first.waits_in) != 0) {
      return false;
    }
  }
  return true;
}

/// Lets go the lanes of a warp that nothing holds back any more, with what each brought; whether there were any.
bool release_lanes(unsigned w) {
  Multiprocessor& m = sm();
  Fiber* const warp = &m.fibers[w * kWarp];
  const unsigned lanes = std::min<unsigned>(kWarp, static_cast<unsigned>(m.fibers.size()) - w * kWarp);
  bool any = false;
  for (unsigned first = 0; first < lanes; ++first) {
    if (warp[first].state != State::kAtWarpBarrier || !is_complete(warp[first], warp, lanes)) continue;
    const unsigned mask = warp[first].mask;
    unsigned there = 0;
    for (unsigned l = 0; l < lanes; ++l) {
      if ((mask >> l & 1) != 0 && warp[l].state == State::kAtWarpBarrier) there |= 1u << l;
    }
    for (unsigned l = 0; l < lanes; ++l) {
      if ((there >> l & 1) == 0) continue;
      warp[l].state = State::kReady;
      m.warps[w].received[l] = warp[l].offered;
      m.warps[w].took_part[l] = there;
    }
    ++m.warps[w].meeting(mask).count;
    any = true;
  }
  return any;
}

bool release_block() {
  Multiprocessor& m = sm();
  const char* name = nullptr;
  Votes votes;
  for (const Fiber& f : m.fibers) {
    if (f.state == State::kDone) continue;
    if (f.state != State::kAtBlockBarrier || (name != nullptr && std::strcmp(name, f.waits_in) != 0)) return false;
    name = f.waits_in;
    ++votes.threads;
    votes.for_it += f.predicate;
  }
  if (name == nullptr) return false;
  for (Fiber& f : m.fibers) {
    if (f.state == State::kAtBlockBarrier) f.state = State::kReady;
  }
  m.votes = votes;
  ++m.block_meeting.count;
  return true;
}

/// After a fault: what is on the stacks of threads that did not end is given up, with its destructors.
void give_up_fibers() {
  Multiprocessor& m = sm();
  for (Fiber& f : m.fibers) {
    if (f.stack) end(f.context);
  }
  m.fibers.clear();
}

/// The threads of a block in the order of their turns: warps, and in each its threads.
using Order = std::vector<std::vector<unsigned>>;

Order order_of(unsigned threads, const ThreadOrder& wanted) {
  Order order((threads + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < threads; ++i) order[i / kWarp].push_back(i);
  if (wanted.is_reversed) {
    std::reverse(order.begin(), order.end());
    for (auto& warp : order) std::reverse(warp.begin(), warp.end());
  }
  return order;
}

void shuffle(Order& order, std::mt19937& random) {
  std::shuffle(order.begin(), order.end(), random);
  for (auto& warp : order) std::shuffle(warp.begin(), warp.end(), random);
}

/// A warp runs on as far as it can, to the block's next barrier: what another warp must not overtake, it overtakes.
void run_block(const Order& order, size_t shared_bytes) {
  Multiprocessor& m = sm();
  for (unsigned i = 0; i < m.fibers.size(); ++i) {
    m.fibers[i].index = {i % m.block.x, i / m.block.x % m.block.y, i / m.block.x / m.block.y};
    m.fibers[i].state = State::kNew;
  }
  std::move(m.left_stacks.begin(), m.left_stacks.end(), std::back_inserter(m.free_stacks));
  m.left_stacks.clear();
  std::fill(m.warps.begin(), m.warps.end(), Warp{});
  m.shared_begin = m.shared.last(shared_bytes);
  std::memset(m.shared_begin, 0xff, shared_bytes);
  publish(&m.begins);
  do {
    for (const std::vector<unsigned>& warp : order) {
      do {
        for (const unsigned i : warp) {
          Fiber& fiber = m.fibers[i];
          if (fiber.state != State::kNew && fiber.state != State::kReady) continue;
          resume(fiber);
          if (m.fault) throw Fault(*std::exchange(m.fault, std::nullopt));
        }
      } while (release_lanes(warp.front() / kWarp));
    }
  } while (release_block());
  for (const Fiber& f : m.fibers) {
    if (f.state != State::kDone) {
      throw Fault(cudaErrorLaunchTimeout, place(f) + " waits for ever in " + f.waits_in);
    }
  }
  observe(&m.ends);
}

}  // namespace

void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& thread) {
  Multiprocessor& m = sm();
  m.grid = grid;
  m.block = block;
  m.body = &thread;
  const unsigned threads = block.x * block.y * block.z;
  m.fibers.resize(threads);
  m.warps.resize((threads + kWarp - 1) / kWarp);
  adopt_thread(m.scheduler);
  const ThreadOrder wanted = thread_order();
  std::mt19937 random(wanted.seed.value_or(0));
  Order order = order_of(threads, wanted);
  try {
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          m.block_index = {x, y, z};
          if (wanted.seed) shuffle(order, random);
          run_block(order, dynamic_shared_bytes);
        }
      }
    }
  } catch (const Fault&) {
    give_up_fibers();
    throw;
  }
}

void fault(cudaError_t error, const std::string& what) {
  Multiprocessor& m = sm();
  if (m.current == nullptr) {
    std::fprintf(stderr, "cuda_host: outside a kernel: %s\n", what.c_str());
    std::abort();
  }
  m.fault.emplace(error, place(*m.current) + ": " + what);
  m.current->state = State::kDone;
  leave(m.current->context, m.scheduler);
}

const uint3& thread_index() {
  return sm().current->index;
}
const uint3& block_index() {
  return sm().block_index;
}
const dim3& block_size() {
  return sm().block;
}
const dim3& grid_size() {
  return sm().grid;
}
void* dynamic_shared_memory() {
  return sm().shared_begin;
}
unsigned lane() {
  return number(*sm().current) % kWarp;
}

Votes block_barrier(const char* name, bool predicate) {
  Multiprocessor& m = sm();
  m.current->predicate = predicate;
  wait(State::kAtBlockBarrier, name, m.block_meeting.object());
  return m.votes;
}

void warp_exchange(const char* name, unsigned mask, const void* value, size_t bytes) {
  Multiprocessor& m = sm();
  Fiber& self = *m.current;
  if ((mask >> lane() & 1) == 0) {
    fault(cudaErrorLaunchFailure, std::string(name) + " by a lane outside its mask");
  }
  self.mask = mask;
  std::copy_n(static_cast<const std::byte*>(value), bytes, self.offered.begin());
  wait(State::kAtWarpBarrier, name, m.warps[number(self) / kWarp].meeting(mask).object());
}

bool received(unsigned from, void* value, size_t bytes) {
  const Warp& warp = sm().warps[number(*sm().current) / kWarp];
  if (from >= kWarp || (warp.took_part[lane()] >> from & 1) == 0) return false;
  std::copy_n(warp.received[from].begin(), bytes, static_cast<std::byte*>(value));
  return true;
}

}  // namespace moe::cuda_host
