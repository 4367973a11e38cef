#include "comm/thread_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "common/error.h"

namespace moe {
namespace {

/// The first failure of a world; shared by its sub-groups.
struct Failure {
  std::mutex mutex;
  std::optional<std::string> reason;

  std::optional<std::string> get() {
    const std::lock_guard<std::mutex> lock(mutex);
    return reason;
  }
};

/// How often a waiting rank looks whether another one has failed.
constexpr std::chrono::milliseconds kFailureCheck{20};

}  // namespace

struct ThreadCommunicator::Group {
  /// What one rank hands out in an exchange, and what it expects.
  struct Posted {
    std::string op;
    std::vector<std::shared_ptr<const std::vector<std::byte>>> sends;  ///< [ranks]
    std::vector<size_t> expected;                                      ///< [ranks]: bytes
  };
  /// One collective, or a part of one: the n-th that each rank begins.
  struct Exchange {
    std::vector<Posted> posted;  ///< [ranks]
    int arrived = 0, left = 0;
    bool is_complete = false;  ///< all have posted, and none had given up
    std::string mismatch;      ///< empty if they fit each other
  };

  explicit Group(int size_in, std::shared_ptr<Failure> failure_in)
      : size(size_in), begun(size_in), offered(size_in), failure(std::move(failure_in)) {}

  /// What two ranks of a complete exchange do not agree on; empty if all fits.
  std::string disagreement(const Exchange& exchange) const {
    const std::vector<Posted>& posted = exchange.posted;
    for (int me = 0; me < size; ++me) {
      for (int r = 0; r < size; ++r) {
        if (posted[r].op != posted[me].op) {
          return concat("rank ", r, " is in '", posted[r].op, "' while rank ", me, " is in '", posted[me].op, "'");
        }
        if (posted[r].sends[me]->size() != posted[me].expected[r]) {
          return concat("rank ", r, " sends ", posted[r].sends[me]->size(), " bytes where rank ", me, " expects ",
                        posted[me].expected[r], " in '", posted[me].op, "'");
        }
      }
    }
    return "";
  }

  /// The rank needs nothing more of the exchange. Under the mutex.
  void leave(uint64_t number) {
    if (++exchanges.at(number).left == size) exchanges.erase(number);
  }

  const int size;
  std::mutex mutex;
  std::condition_variable all_here;
  std::vector<uint64_t> begun;             ///< [ranks]: exchanges that the rank began
  std::map<uint64_t, Exchange> exchanges;  ///< by number; nodes stay where they are
  /// Where two ranks did not agree, and the wait of the first that gave up: once set, every later exchange of the group
  /// throws it.
  std::string mismatch, late;
  /// Sub-groups made in a split, by the rank that made them.
  std::vector<std::shared_ptr<Group>> offered;
  std::shared_ptr<Failure> failure;
};

class ThreadCommunicator::ThreadTransfer final : public ExchangeCommunicator::Transfer {
 public:
  ThreadTransfer(std::shared_ptr<Group> group, Operation operation, uint64_t number, std::span<const Receive> receives,
                 std::vector<at::Tensor> kept)
      : group_(std::move(group)),
        operation_(std::move(operation)),
        number_(number),
        receives_(receives.begin(), receives.end()),
        kept_(std::move(kept)) {}

  ~ThreadTransfer() override {
    const std::lock_guard<std::mutex> lock(group_->mutex);
    if (!has_left_) group_->leave(number_);
  }

  /// Ends early, for all ranks, when one is late or has failed.
  void finish(const Limit& limit) override {
    Group& group = *group_;
    std::unique_lock<std::mutex> lock(group.mutex);
    const Group::Exchange& exchange = group.exchanges.at(number_);
    const auto deadline = std::chrono::steady_clock::now() + limit.time;
    while (!exchange.is_complete) {
      if (const auto reason = group.failure->get()) throw HardwareError("another rank failed: " + *reason);
      if (!group.late.empty()) throw Timeout(group.late);
      if (std::chrono::steady_clock::now() > deadline) {
        group.late = concat("no answer within ", limit.time.count(), " ms in ", operation_.describe());
        throw Timeout(group.late);
      }
      group.all_here.wait_for(lock, kFailureCheck);
    }
    if (!exchange.mismatch.empty()) throw Internal(exchange.mismatch);
    lock.unlock();
    // Nobody changes what was posted any more.
    for (int r = 0; r < group.size; ++r) {
      if (!receives_[r].empty())
        std::memcpy(receives_[r].data(), exchange.posted[r].sends[operation_.rank]->data(), receives_[r].size());
    }
    lock.lock();
    group.leave(number_);
    has_left_ = true;
  }

 private:
  std::shared_ptr<Group> group_;
  Operation operation_;
  uint64_t number_;
  std::vector<Receive> receives_;
  std::vector<at::Tensor> kept_;
  bool has_left_ = false;
};

namespace {

/// An exchange with oneself is over when it is begun.
class DoneTransfer final : public ExchangeCommunicator::Transfer {
 public:
  void finish(const ExchangeCommunicator::Limit& /*limit*/) override {}
};

/// Copies of the buffers; of the same buffer one.
std::vector<std::shared_ptr<const std::vector<std::byte>>> copies_of(
    std::span<const ExchangeCommunicator::Send> sends) {
  std::vector<std::shared_ptr<const std::vector<std::byte>>> copies;
  for (size_t r = 0; r < sends.size(); ++r) {
    const bool is_same = r > 0 && sends[r].data() == sends[r - 1].data() && sends[r].size() == sends[r - 1].size();
    copies.push_back(is_same ? copies.back()
                             : std::make_shared<const std::vector<std::byte>>(sends[r].begin(), sends[r].end()));
  }
  return copies;
}

}  // namespace

std::vector<std::unique_ptr<ThreadCommunicator>> ThreadCommunicator::make_world(int size,
                                                                                std::chrono::milliseconds timeout) {
  const auto group = std::make_shared<Group>(size, std::make_shared<Failure>());
  std::vector<std::unique_ptr<ThreadCommunicator>> ranks;
  for (int r = 0; r < size; ++r)
    ranks.emplace_back(new ThreadCommunicator(group, r, timeout, std::make_shared<OperationLog>()));
  return ranks;
}

ThreadCommunicator::ThreadCommunicator(std::shared_ptr<Group> group, int rank, std::chrono::milliseconds timeout,
                                       std::shared_ptr<OperationLog> log)
    : ExchangeCommunicator(timeout, std::move(log)), group_(std::move(group)), rank_(rank) {}

int ThreadCommunicator::size() const {
  return group_->size;
}

void ThreadCommunicator::abort(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(group_->failure->mutex);
  if (!group_->failure->reason) group_->failure->reason = reason;
}

std::unique_ptr<ExchangeCommunicator::Transfer> ThreadCommunicator::begin(Operation operation,
                                                                          std::span<const Send> sends,
                                                                          std::span<const Receive> receives,
                                                                          std::vector<at::Tensor> kept) {
  Group& group = *group_;
  if (group.size == 1) {
    MOE_CHECK(sends[0].size() == receives[0].size(), operation.describe(), ": sizes to and from oneself differ");
    if (!sends[0].empty()) std::memcpy(receives[0].data(), sends[0].data(), sends[0].size());
    return std::make_unique<DoneTransfer>();
  }
  Group::Posted mine{operation.name, copies_of(sends), {}};
  for (const Receive& receive : receives) mine.expected.push_back(receive.size());
  const std::lock_guard<std::mutex> lock(group.mutex);
  const uint64_t number = group.begun[rank_]++;
  Group::Exchange& exchange = group.exchanges[number];
  exchange.posted.resize(group.size);
  exchange.posted[rank_] = std::move(mine);
  if (++exchange.arrived == group.size && group.late.empty() && !group.failure->get()) {
    if (group.mismatch.empty()) group.mismatch = group.disagreement(exchange);
    exchange.mismatch = group.mismatch;
    exchange.is_complete = true;
    group.all_here.notify_all();
  }
  return std::make_unique<ThreadTransfer>(group_, std::move(operation), number, receives, std::move(kept));
}

std::unique_ptr<Communicator> ThreadCommunicator::split(int color, std::string_view op) {
  // The lowest member makes the group and offers it to the others.
  std::vector<int> members;
  const std::vector<std::string> colors = all_gather_bytes(std::to_string(color), op);
  for (int r = 0; r < size(); ++r) {
    if (colors[r] == std::to_string(color)) members.push_back(r);
  }
  const bool is_lowest = members.front() == rank_;
  if (is_lowest) group_->offered[rank_] = std::make_shared<Group>(static_cast<int>(members.size()), group_->failure);
  barrier(op);
  const std::shared_ptr<Group> group = group_->offered[members.front()];
  barrier(op);
  if (is_lowest) group_->offered[rank_].reset();
  const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
  return std::unique_ptr<Communicator>(new ThreadCommunicator(group, static_cast<int>(place), timeout(), operations()));
}

std::unique_ptr<Communicator> make_self_communicator() {
  return std::move(ThreadCommunicator::make_world(1).front());
}

}  // namespace moe
