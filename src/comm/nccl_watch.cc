#include "comm/nccl_watch.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "comm/nccl_library.h"
#include "common/error.h"

namespace moe {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{5};

}  // namespace

NcclWatch::NcclWatch(ncclComm_t comm, std::string who, std::chrono::milliseconds timeout)
    : comm_(comm),
      who_(std::move(who)),
      timeout_(timeout),
      device_(c10::impl::VirtualGuardImpl(c10::kCUDA).getDevice()),
      thread_([this] { run(); }) {}

NcclWatch::~NcclWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void NcclWatch::add(std::string operation, std::function<bool()> is_done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pending_.push_back({std::move(operation), std::move(is_done), std::chrono::steady_clock::now()});
  }
  changed_.notify_all();
}

void NcclWatch::require_whole() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!has_failed_) return;
  if (is_timeout_) throw Timeout(message_);
  throw HardwareError(message_);
}

bool NcclWatch::is_whole() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !has_failed_;
}

void NcclWatch::fail(bool is_timeout, const std::string& message) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (has_failed_) return;
    has_failed_ = true;
    is_timeout_ = is_timeout;
    message_ = message;
    pending_.clear();
  }
  nccl_library().abort(comm_);
}

void NcclWatch::run() {
  c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(device_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!is_ending_) {
    if (pending_.empty() || has_failed_) {
      changed_.wait(lock, [this] { return is_ending_ || (!pending_.empty() && !has_failed_); });
      continue;
    }
    changed_.wait_for(lock, kBetweenLooks);
    while (!is_ending_ && !has_failed_ && !pending_.empty() && look(lock)) {
    }
  }
}

/// At the oldest operation; whether it is done.
bool NcclWatch::look(std::unique_lock<std::mutex>& lock) {
  const Pending oldest = pending_.front();
  lock.unlock();
  const bool is_done = oldest.is_done();
  // Also of one that is done: NCCL may end a kernel because of an error.
  ncclResult_t state = ncclSuccess;
  nccl_library().get_async_error(comm_, &state);
  const auto waited = std::chrono::steady_clock::now() - oldest.since;
  if (state != ncclSuccess && state != ncclInProgress) {
    fail(/*is_timeout=*/false, concat("NCCL: ", nccl_library().get_error_string(state), " (",
                                      nccl_library().get_last_error(comm_), ") in ", oldest.operation, " of ", who_));
  } else if (!is_done && waited > timeout_) {
    fail(/*is_timeout=*/true, concat("no answer within ", timeout_.count(), " ms in ", oldest.operation, " of ", who_));
  }
  lock.lock();
  if (is_done && !has_failed_) pending_.pop_front();
  return is_done && !has_failed_;
}

}  // namespace moe
