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
      : size(size_in), posted(size_in), failure(std::move(failure_in)) {}

  const int size;
  std::mutex mutex;
  std::condition_variable all_here;
  int waiting = 0;
  uint64_t round = 0;
  std::vector<Posted> posted;
  std::shared_ptr<Failure> failure;
};

std::vector<std::unique_ptr<ThreadCommunicator>> ThreadCommunicator::make_world(int size, std::chrono::milliseconds timeout) {
  const auto group = std::make_shared<Group>(size, std::make_shared<Failure>());
  std::vector<std::unique_ptr<ThreadCommunicator>> ranks;
  for (int r = 0; r < size; ++r) ranks.emplace_back(new ThreadCommunicator(group, r, timeout));
  return ranks;
}

ThreadCommunicator::ThreadCommunicator(std::shared_ptr<Group> group, int rank, std::chrono::milliseconds timeout)
    : ExchangeCommunicator(timeout), group_(std::move(group)), rank_(rank) {}

int ThreadCommunicator::size() const { return group_->size; }

void ThreadCommunicator::abort(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(group_->failure->mutex);
  if (!group_->failure->reason) group_->failure->reason = reason;
}

/// Returns when every rank of the group has come.
void ThreadCommunicator::meet() {
  Group& group = *group_;
  std::unique_lock<std::mutex> lock(group.mutex);
  const uint64_t round = group.round;
  if (++group.waiting == group.size) {
    group.waiting = 0;
    ++group.round;
    group.all_here.notify_all();
    return;
  }
  const auto deadline = std::chrono::steady_clock::now() + timeout();
  while (group.round == round) {
    group.all_here.wait_for(lock, kFailureCheck);
    if (group.round != round) break;
    if (const auto reason = group.failure->get()) throw HardwareError("another rank failed: " + *reason);
    if (std::chrono::steady_clock::now() > deadline) {
      throw Timeout(concat("no answer within ", timeout().count(), " ms in ", describe_operation()));
    }
  }
}

void ThreadCommunicator::exchange(std::span<const Send> sends, std::span<const Receive> receives) {
  group_->posted[rank_] = {sends, operations().current()};
  meet();
  std::string mismatch;
  for (int r = 0; r < size(); ++r) {
    const Group::Posted& peer = group_->posted[r];
    if (peer.op != operations().current()) {
      mismatch = concat("rank ", r, " is in '", peer.op, "' while rank ", rank_, " is in '", operations().current(), "'");
    } else if (peer.sends[rank_].size() != receives[r].size()) {
      mismatch = concat("rank ", r, " sends ", peer.sends[rank_].size(), " bytes where rank ", rank_, " expects ", receives[r].size(),
                        " in '", peer.op, "'");
    } else if (!receives[r].empty()) {
      std::memcpy(receives[r].data(), peer.sends[rank_].data(), receives[r].size());
    }
    if (!mismatch.empty()) break;
  }
  if (!mismatch.empty()) {
    abort(mismatch);
    throw Internal(mismatch);
  }
  meet();
}

std::unique_ptr<Communicator> ThreadCommunicator::split(int color, std::string_view op) {
  // The lowest member makes the group; its address travels within the process, and the barrier keeps it alive until all hold it.
  std::vector<int> members;
  const std::vector<std::string> colors = all_gather_bytes(std::to_string(color), op);
  for (int r = 0; r < size(); ++r) {
    if (colors[r] == std::to_string(color)) members.push_back(r);
  }
  std::shared_ptr<Group> made;
  if (members.front() == rank_) made = std::make_shared<Group>(static_cast<int>(members.size()), group_->failure);
  const std::shared_ptr<Group>* const mine = &made;
  const std::string address(reinterpret_cast<const char*>(&mine), sizeof mine);
  const std::string leader = all_gather_bytes(address, op)[members.front()];
  const std::shared_ptr<Group>* theirs = nullptr;
  std::memcpy(&theirs, leader.data(), sizeof theirs);
  const std::shared_ptr<Group> group = *theirs;
  barrier(op);
  const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
  return std::unique_ptr<Communicator>(new ThreadCommunicator(group, static_cast<int>(place), timeout()));
}

std::unique_ptr<Communicator> make_self_communicator() { return std::move(ThreadCommunicator::make_world(1).front()); }

}  // namespace moe
