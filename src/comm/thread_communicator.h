#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/exchange_communicator.h"

namespace moe {

/// N ranks as threads of one process: the same collectives as over MPI, for tests. Each rank's object is used by its
/// own thread. A rank that names another operation than its peers, or sends another size than they expect, makes all of
/// them throw Internal; a wait that passes its limit throws Timeout in all of them, late ones included; a rank that
/// fails elsewhere tells the others through abort().
class ThreadCommunicator final : public ExchangeCommunicator {
 public:
  /// The communicators of ranks 0 .. size-1.
  static std::vector<std::unique_ptr<ThreadCommunicator>> make_world(
      int size, std::chrono::milliseconds timeout = kDefaultCollectiveTimeout);

  int rank() const override { return rank_; }
  int size() const override;
  std::unique_ptr<Communicator> split(int color, std::string_view op) override;

  /// Every wait of any rank of the world, now and later, throws HardwareError with this reason (the first one given).
  void abort(const std::string& reason);

 protected:
  void exchange(std::span<const Send> sends, std::span<const Receive> receives) override;

 private:
  struct Group;
  ThreadCommunicator(std::shared_ptr<Group> group, int rank, std::chrono::milliseconds timeout,
                     std::shared_ptr<OperationLog> log);
  enum class Meeting { kFirst, kSecond };
  void meet(Meeting meeting);
  /// What another rank posted that does not fit this rank's call; empty if all fits.
  std::string disagreement(std::span<const Receive> receives) const;

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace moe
