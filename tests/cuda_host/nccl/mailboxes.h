#pragma once

#include <nccl.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// What the ranks of a simulated NCCL communicator share: memory of the machine (POSIX shared memory), so that ranks
/// may be processes or threads. A mailbox from each rank to each holds one piece of a message at a time: a message ends
/// when its receiver took it, as NCCL promises no more. A rank that is dead, or that sends something else than the
/// other expects, is an error of all.
namespace moe::cuda_host {

constexpr int kMostRanks = 16;
constexpr size_t kPiece = size_t{32} << 10;  // bytes

struct Mailbox {
  std::atomic<uint64_t> put{0}, taken{0};  ///< pieces so far
  uint64_t message_bytes = 0;              ///< of the message that the piece is of
  char what[96] = "";                      ///< the operation that it is of
  std::byte data[kPiece];
};

struct World {
  std::atomic<int> size{0}, joined{0};
  std::atomic<int> error{ncclSuccess};  ///< of the first rank that failed
  std::atomic<pid_t> pids[kMostRanks];
  std::atomic<bool> is_text_taken{false}, has_text{false};
  char text[256] = "";
  Mailbox mail[kMostRanks][kMostRanks];  ///< [from][to]

  bool is_over() const { return error != ncclSuccess; }
  /// Keeps the first.
  void fail(ncclResult_t result, const std::string& why);
};

/// Of an id all ranks know; made by the first that asks.
World& open_world(const std::string& name, int size);
/// The name goes; those that have it open keep it.
void forget_world(const std::string& name);

/// A part of an exchange.
struct Transfer {
  bool is_send = false;
  int peer = 0;
  std::byte* data = nullptr;
  size_t bytes = 0;
  std::string what;
};

/// All at once, until all are done, the world is over or the rank, who calls, gave up.
void run_transfers(World& world, int rank, const std::atomic<bool>& is_given_up, std::vector<Transfer> transfers);

}  // namespace moe::cuda_host
