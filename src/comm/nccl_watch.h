#pragma once

#include <ATen/core/Tensor.h>
#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace moe {

/// Looks after what an NCCL communicator has under way, on a thread of its own: NCCL tells of a dead peer only who
/// asks, and of a missing one nobody.
class NcclWatch {
 public:
  /// `who` ends messages: "rank 1 of 4". The communicator is the caller's, and outlives this.
  NcclWatch(ncclComm_t comm, std::string who, std::chrono::milliseconds timeout);
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;
  ~NcclWatch();

  /// An operation that was enqueued. `is_done` asks whether its stream has come so far; called on the watch's thread.
  void add(std::string operation, std::function<bool()> is_done);

  /// Throws what ended the communicator, if something did.
  void require_whole() const;
  bool is_whole() const;

  /// Ends it: aborts NCCL, whose kernels then return, and throws this from now on.
  void fail(bool is_timeout, const std::string& message);

 private:
  struct Pending {
    std::string operation;
    std::function<bool()> is_done;
    std::chrono::steady_clock::time_point since;
  };

  void run();
  bool look(std::unique_lock<std::mutex>& lock);

  ncclComm_t comm_;
  const std::string who_;
  const std::chrono::milliseconds timeout_;
  const c10::Device device_;
  mutable std::mutex mutex_;  ///< of what follows
  std::condition_variable changed_;
  std::deque<Pending> pending_;
  bool is_ending_ = false, has_failed_ = false, is_timeout_ = false;
  std::string message_;
  std::thread thread_;
};

}  // namespace moe
