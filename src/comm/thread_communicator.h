#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/exchange_communicator.h"

namespace moe {

/// N ranks as threads of one process: the same collectives as over MPI, for tests. Each rank's object is used by its
/// own thread. What is sent is copied when it is handed in, so that no rank waits for a reader. A rank that names
/// another operation than its peers, or sends another size than they expect, makes all of them throw Internal; a wait
/// that passes its limit throws Timeout in all of them, late ones included; a rank that fails elsewhere tells the
/// others through abort().
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
  std::unique_ptr<Transfer> begin(Operation operation, std::span<const Send> sends, std::span<const Receive> receives,
                                  std::vector<at::Tensor> kept) override;

 private:
  struct Group;
  class ThreadTransfer;
  ThreadCommunicator(std::shared_ptr<Group> group, int rank, std::chrono::milliseconds timeout,
                     std::shared_ptr<OperationLog> log);
  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace moe
