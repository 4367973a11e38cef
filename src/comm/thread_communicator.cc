#include "comm/thread_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
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
  struct Posted {
    std::span<const Send> sends;
    std::string op;
  };

  explicit Group(int size_in, std::shared_ptr<Failure> failure_in)
      : size(size_in), posted(size_in), offered(size_in), failure(std::move(failure_in)) {}

  const int size;
  std::mutex mutex;
  std::condition_variable all_here;
  int waiting = 0;
  uint64_t round = 0;
  /// What each rank hands out; read by all between the two meetings of an exchange.
  std::vector<Posted> posted;
  /// Where two ranks did not agree, and the wait of the first that gave up: once set, every later call of the group
  /// throws it.
  std::string mismatch, late;
  /// Sub-groups made in a split, by the rank that made them.
  std::vector<std::shared_ptr<Group>> offered;
  std::shared_ptr<Failure> failure;
};

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

/// Returns when every rank of the group has come. The first meeting of an exchange ends early, for all, when a rank is
/// late or has failed; a rank that leaves it has handed out nothing that another one still reads. Nothing can hold up
/// the second one.
void ThreadCommunicator::meet(Meeting meeting) {
  Group& group = *group_;
  std::unique_lock<std::mutex> lock(group.mutex);
  if (meeting == Meeting::kSecond) {
    const uint64_t round = group.round;
    if (++group.waiting < group.size) return group.all_here.wait(lock, [&] { return group.round != round; });
  } else {
    const auto deadline = std::chrono::steady_clock::now() + limit();
    const uint64_t round = group.round;
    ++group.waiting;
    while (group.round == round) {
      if (const auto reason = group.failure->get()) throw HardwareError("another rank failed: " + *reason);
      if (!group.late.empty()) throw Timeout(group.late);
      if (group.waiting == group.size) break;
      if (std::chrono::steady_clock::now() > deadline) {
        group.late = concat("no answer within ", limit().count(), " ms in ", describe_operation());
        throw Timeout(group.late);
      }
      group.all_here.wait_for(lock, kFailureCheck);
    }
    if (group.round != round) return;
  }
  group.waiting = 0;
  ++group.round;
  group.all_here.notify_all();
}

std::string ThreadCommunicator::disagreement(std::span<const Receive> receives) const {
  const std::string mine = operations()->current();
  for (int r = 0; r < size(); ++r) {
    const Group::Posted& peer = group_->posted[r];
    if (peer.op != mine) return concat("rank ", r, " is in '", peer.op, "' while rank ", rank_, " is in '", mine, "'");
    if (peer.sends[rank_].size() != receives[r].size()) {
      return concat("rank ", r, " sends ", peer.sends[rank_].size(), " bytes where rank ", rank_, " expects ",
                    receives[r].size(), " in '", mine, "'");
    }
  }
  return "";
}

void ThreadCommunicator::exchange(std::span<const Send> sends, std::span<const Receive> receives) {
  Group& group = *group_;
  group.posted[rank_] = {sends, operations()->current()};
  meet(Meeting::kFirst);
  if (const std::string mismatch = disagreement(receives); !mismatch.empty()) {
    const std::lock_guard<std::mutex> lock(group.mutex);
    if (group.mismatch.empty()) group.mismatch = mismatch;
  } else {
    for (int r = 0; r < size(); ++r) {
      if (!receives[r].empty())
        std::memcpy(receives[r].data(), group.posted[r].sends[rank_].data(), receives[r].size());
    }
  }
  meet(Meeting::kSecond);
  const std::lock_guard<std::mutex> lock(group.mutex);
  if (!group.mismatch.empty()) throw Internal(group.mismatch);
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
