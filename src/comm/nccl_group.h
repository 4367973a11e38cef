#pragma once

#include <ATen/core/Tensor.h>
#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/nccl_library.h"

namespace moe {

/// Why NCCL of a rank ended: shared by a communicator and those split from it, so that whoever fails, all of the rank
/// stop. Thread-safe.
class NcclFailure {
 public:
  /// Keeps the first.
  void set(bool is_timeout, const std::string& message);
  /// Throws it: Timeout or HardwareError.
  void throw_if_any() const;

 private:
  mutable std::mutex mutex_;
  bool is_set_ = false, is_timeout_ = false;
  std::string message_;
};

/// NCCL of one group of ranks, on this rank's GPU and a stream of its own, and a watch of what it has under way, on a
/// thread: NCCL tells of a dead peer only who asks, and of a missing one nobody. What is not done within the limit, or
/// fails, aborts NCCL, whose kernels then return; from then on every call throws why. NCCL allows one thread at a time:
/// all calls of it are under one mutex. Collectives are begun by one thread at a time, as those of a Communicator.
class NcclGroup {
 public:
  /// Collective over `host`. Throws HardwareError, or Timeout if NCCL is not begun within the limit.
  NcclGroup(Communicator& host, std::chrono::milliseconds timeout, std::shared_ptr<NcclFailure> failure);
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  /// Waits, within the limit, for what is under way; in an exception's wake aborts it: no peer may come to it any more.
  ~NcclGroup();

  using Calls = std::function<ncclResult_t(const NcclLibrary& nccl, ncclComm_t comm, cudaStream_t stream)>;
  /// Waits of a stream for a piece of work: called on the thread whose current stream is to wait.
  using Wait = std::function<void()>;

  /// Enqueues `calls` as one piece of work, behind what the current stream holds. `used`: the tensors that it reads and
  /// writes. `operation` names it.
  Wait run(const std::string& operation, const std::vector<at::Tensor>& used, const Calls& calls);

 private:
  struct Pending {
    std::string operation;
    std::function<bool()> is_done;
    std::chrono::steady_clock::time_point since;
  };

  void settle(const std::string& operation);
  void watch();
  bool look(std::unique_lock<std::mutex>& lock);
  ncclResult_t state_locked();
  bool fail_if_over_locked(ncclResult_t state, std::chrono::steady_clock::time_point since,
                           const std::string& operation);
  void fail_locked(bool is_timeout, const std::string& what, const std::string& operation);
  std::string explained(ncclResult_t result) const;

  const NcclLibrary& nccl_;
  const std::string who_;  ///< "rank 1 of 4"
  const std::chrono::milliseconds timeout_;
  const std::shared_ptr<NcclFailure> failure_;
  const at::Device device_;
  const std::shared_ptr<void> stream_;  ///< a c10::Stream
  std::mutex mutex_;                    ///< of NCCL and of what follows
  std::condition_variable changed_;
  ncclComm_t comm_ = nullptr;  ///< null once it was aborted
  std::deque<Pending> pending_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace moe
