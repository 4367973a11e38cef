#include "comm/nccl_group.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "common/error.h"

namespace moe {
namespace {

/// A look at NCCL's own threads first yields, since they are soon done, and then sleeps.
constexpr std::chrono::milliseconds kYieldFor{1};
constexpr std::chrono::microseconds kSleep{100};
constexpr std::chrono::milliseconds kBetweenLooks{5};

c10::impl::VirtualGuardImpl cuda() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA);
}

c10::Stream& stream_in(const std::shared_ptr<void>& holder) {
  return *static_cast<c10::Stream*>(holder.get());
}

}  // namespace

void NcclFailure::set(bool is_timeout, const std::string& message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (std::exchange(is_set_, true)) return;
  is_timeout_ = is_timeout;
  message_ = message;
}

void NcclFailure::throw_if_any() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_set_) return;
  if (is_timeout_) throw Timeout(message_);
  throw HardwareError(message_);
}

NcclGroup::NcclGroup(Communicator& host, std::chrono::milliseconds timeout, std::shared_ptr<NcclFailure> failure)
    : nccl_(nccl_library()),
      who_(concat("rank ", host.rank(), " of ", host.size())),
      timeout_(timeout),
      failure_(std::move(failure)),
      device_(cuda().getDevice()),
      stream_(std::make_shared<c10::Stream>(cuda().getStreamFromGlobalPool(device_, /*isHighPriority=*/true))) {
  const std::string operation = "the begin of NCCL";
  ncclUniqueId id{};
  if (host.rank() == 0) nccl_.get_unique_id(&id);
  const std::string bytes = host.broadcast_bytes({id.internal, sizeof id.internal}, 0, "NCCL's id");
  std::copy(bytes.begin(), bytes.end(), id.internal);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const ncclResult_t result = nccl_.init_rank(&comm_, host.size(), id, host.rank(), &config);
    if (result != ncclSuccess && result != ncclInProgress) fail_locked(false, explained(result), operation);
  }
  settle(operation);
  thread_ = std::thread([this] { watch(); });
}

NcclGroup::~NcclGroup() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    // What nobody waited for is owed to the others all the same. After an error they may never come to it.
    if (std::uncaught_exceptions() == 0) changed_.wait(lock, [this] { return pending_.empty() || comm_ == nullptr; });
    is_ending_ = true;
    if (comm_ != nullptr && !pending_.empty()) {
      nccl_.abort(comm_);
      comm_ = nullptr;
    }
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (comm_ != nullptr) nccl_.destroy(comm_);
}

NcclGroup::Wait NcclGroup::run(const std::string& operation, const std::vector<at::Tensor>& used, const Calls& calls) {
  failure_->throw_if_any();
  c10::Stream& stream = stream_in(stream_);
  c10::Event ready(c10::kCUDA);
  ready.record(cuda().getStream(device_));
  ready.block(stream);
  for (const at::Tensor& tensor : used) {
    if (tensor.numel() > 0) tensor.record_stream(stream);
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ncclResult_t result = comm_ == nullptr ? ncclSuccess : nccl_.group_start();
    if (comm_ != nullptr && result == ncclSuccess) {
      result = calls(nccl_, comm_, static_cast<cudaStream_t>(stream.native_handle()));
      const ncclResult_t ended = nccl_.group_end();
      if (result == ncclSuccess || result == ncclInProgress) result = ended;
    }
    if (result != ncclSuccess && result != ncclInProgress) fail_locked(false, explained(result), operation);
  }
  settle(operation);
  const auto done = std::make_shared<c10::Event>(c10::kCUDA), watched = std::make_shared<c10::Event>(c10::kCUDA);
  done->record(stream);
  watched->record(stream);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pending_.push_back({operation, [watched] { return watched->query(); }, std::chrono::steady_clock::now()});
  }
  changed_.notify_all();
  return [this, done] {
    failure_->throw_if_any();
    done->block(cuda().getStream(device_));
  };
}

/// Until NCCL's own threads have taken what they were given: only then does the stream hold it.
void NcclGroup::settle(const std::string& operation) {
  const auto begun = std::chrono::steady_clock::now();
  while (true) {
    failure_->throw_if_any();
    const auto waited = std::chrono::steady_clock::now() - begun;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const ncclResult_t state = state_locked();
      if (state == ncclSuccess && comm_ != nullptr) return;
      if (comm_ != nullptr) fail_if_over_locked(state, begun, operation);
    }
    if (waited < kYieldFor) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
}

void NcclGroup::watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  try {
    cuda().setDevice(device_);
    while (!is_ending_) {
      if (pending_.empty() || comm_ == nullptr) {
        changed_.wait(lock, [this] { return is_ending_ || (!pending_.empty() && comm_ != nullptr); });
        continue;
      }
      changed_.wait_for(lock, kBetweenLooks);
      while (!is_ending_ && comm_ != nullptr && !pending_.empty() && look(lock)) {
      }
    }
  } catch (const std::exception& error) {  // of CUDA: the device is lost
    if (!lock.owns_lock()) lock.lock();
    fail_locked(/*is_timeout=*/false, message_of(error), pending_.empty() ? "the watch" : pending_.front().operation);
  }
}

/// At the oldest operation; whether it is done.
bool NcclGroup::look(std::unique_lock<std::mutex>& lock) {
  const Pending oldest = pending_.front();
  lock.unlock();
  const bool is_done = oldest.is_done();
  lock.lock();
  if (comm_ == nullptr) return false;
  // Also of one that is done: NCCL may end a kernel because of an error.
  const auto since = is_done ? std::chrono::steady_clock::now() : oldest.since;
  if (fail_if_over_locked(state_locked(), since, oldest.operation) || !is_done) return false;
  pending_.pop_front();
  changed_.notify_all();
  return true;
}

/// Where NCCL failed, or what was begun then takes longer than the limit.
bool NcclGroup::fail_if_over_locked(ncclResult_t state, std::chrono::steady_clock::time_point since,
                                    const std::string& operation) {
  if (state != ncclSuccess && state != ncclInProgress) {
    fail_locked(/*is_timeout=*/false, explained(state), operation);
  } else if (std::chrono::steady_clock::now() - since > timeout_) {
    fail_locked(/*is_timeout=*/true, concat("no answer within ", timeout_.count(), " ms"), operation);
  } else {
    return false;
  }
  return true;
}

ncclResult_t NcclGroup::state_locked() {
  if (comm_ == nullptr) return ncclSuccess;
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = nccl_.get_async_error(comm_, &state);
  return asked == ncclSuccess ? state : asked;
}

void NcclGroup::fail_locked(bool is_timeout, const std::string& what, const std::string& operation) {
  failure_->set(is_timeout, concat(what, " in ", operation, " of ", who_));
  if (comm_ != nullptr) nccl_.abort(comm_);
  comm_ = nullptr;
  pending_.clear();
  changed_.notify_all();
}

std::string NcclGroup::explained(ncclResult_t result) const {
  return concat("NCCL: ", nccl_.get_error_string(result), " (", nccl_.get_last_error(comm_), ")");
}

}  // namespace moe
