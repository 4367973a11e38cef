#include "cuda_host/nccl/mailboxes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace moe::cuda_host {
namespace {

/// A transfer and how far it is.
struct Progress {
  Transfer transfer;
  size_t done = 0;
  bool has_begun = false;

  /// A message of no bytes is a piece all the same: the other end waits for it.
  bool is_complete() const { return has_begun && done == transfer.bytes; }
};

/// Whether a piece moved.
bool send_piece(World& world, int rank, Progress& at) {
  Mailbox& box = world.mail[rank][at.transfer.peer];
  if (box.put.load(std::memory_order_acquire) != box.taken.load(std::memory_order_acquire)) return false;
  const size_t count = std::min(kPiece, at.transfer.bytes - at.done);
  box.message_bytes = at.transfer.bytes;
  std::snprintf(box.what, sizeof box.what, "%s", at.transfer.what.c_str());
  if (count > 0) std::memcpy(box.data, at.transfer.data + at.done, count);
  at.done += count;
  at.has_begun = true;
  box.put.fetch_add(1, std::memory_order_release);
  return true;
}

bool receive_piece(World& world, int rank, Progress& at) {
  Mailbox& box = world.mail[at.transfer.peer][rank];
  if (box.put.load(std::memory_order_acquire) == box.taken.load(std::memory_order_acquire)) return false;
  const std::string what = box.what;
  if (what != at.transfer.what || box.message_bytes != at.transfer.bytes) {
    world.fail(ncclInvalidUsage, "rank " + std::to_string(rank) + " is in " + at.transfer.what + " of " +
                                     std::to_string(at.transfer.bytes) + " bytes, rank " +
                                     std::to_string(at.transfer.peer) + " in " + what + " of " +
                                     std::to_string(box.message_bytes) + " bytes");
    return true;
  }
  const size_t count = std::min(kPiece, at.transfer.bytes - at.done);
  if (count > 0) std::memcpy(at.transfer.data + at.done, box.data, count);
  at.done += count;
  at.has_begun = true;
  box.taken.fetch_add(1, std::memory_order_release);
  return true;
}

/// What was sent is taken.
bool is_taken(const World& world, int rank, const Transfer& send) {
  const Mailbox& box = world.mail[rank][send.peer];
  return box.put.load(std::memory_order_acquire) == box.taken.load(std::memory_order_acquire);
}

void look_for_the_dead(World& world) {
  for (int rank = 0; rank < world.size; ++rank) {
    const pid_t pid = world.pids[rank];
    if (pid != 0 && ::kill(pid, 0) != 0 && errno == ESRCH)
      return world.fail(ncclRemoteError, "rank " + std::to_string(rank) + " is dead");
  }
}

}  // namespace

void World::fail(ncclResult_t result, const std::string& why) {
  if (!is_text_taken.exchange(true)) {
    std::snprintf(text, sizeof text, "%s", why.c_str());
    has_text = true;
  }
  int expected = ncclSuccess;
  error.compare_exchange_strong(expected, result);
}

World& open_world(const std::string& name, int size) {
  const int file = ::shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0 || ::ftruncate(file, sizeof(World)) != 0) throw std::runtime_error("no shared memory for " + name);
  void* const mapping = ::mmap(nullptr, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (mapping == MAP_FAILED) throw std::runtime_error("no shared memory for " + name);
  // Memory of zeros is a world that nobody joined: nothing is constructed.
  World& world = *static_cast<World*>(mapping);
  world.size = size;
  return world;
}

void forget_world(const std::string& name) {
  ::shm_unlink(name.c_str());
}

void run_transfers(World& world, int rank, const std::atomic<bool>& is_given_up, std::vector<Transfer> transfers) {
  std::vector<Progress> all;
  for (Transfer& transfer : transfers) all.push_back({std::move(transfer)});
  auto looked = std::chrono::steady_clock::now();
  while (!world.is_over() && !is_given_up) {
    bool moved = false, is_done = true;
    bool is_busy[2][kMostRanks] = {};  // messages between two ranks keep their order
    for (Progress& at : all) {
      bool& busy = is_busy[at.transfer.is_send ? 1 : 0][at.transfer.peer];
      if (!at.is_complete() && !busy)
        moved |= at.transfer.is_send ? send_piece(world, rank, at) : receive_piece(world, rank, at);
      busy |= !at.is_complete();
      is_done &= at.is_complete();
    }
    if (is_done && std::all_of(all.begin(), all.end(), [&](const Progress& at) {
          return !at.transfer.is_send || is_taken(world, rank, at.transfer);
        }))
      return;
    if (moved) continue;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    const auto now = std::chrono::steady_clock::now();
    if (now - looked < std::chrono::milliseconds(20)) continue;
    looked = now;
    look_for_the_dead(world);
  }
}

}  // namespace moe::cuda_host
