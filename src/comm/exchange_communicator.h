#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "comm/operation_log.h"

namespace moe {

/// The collectives, built once on a single primitive that a transport brings: every rank hands every other rank a
/// buffer. CPU tensors. Reductions gather slices and add them in rank order, so their bits do not depend on timing or
/// transport.
class ExchangeCommunicator : public Communicator {
 public:
  void all_reduce_sum(at::Tensor& tensor, std::string_view op) final;
  void broadcast(at::Tensor& tensor, int root, std::string_view op) final;
  std::unique_ptr<Work> start_reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                 std::string_view op) final;
  std::unique_ptr<Work> start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                         std::string_view op) final;
  at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) final;
  std::unique_ptr<Work> start_all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows,
                                         std::span<const int64_t> recv_rows, std::string_view op) final;
  std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view op) final;
  std::vector<std::string> all_gather_bytes_after_work(std::string_view bytes, std::string_view op) final;
  void barrier(std::string_view op) final;
  std::shared_ptr<OperationLog> operations() const final { return operations_; }

  using Send = std::span<const std::byte>;
  using Receive = std::span<std::byte>;

  /// Which one an exchange is part of.
  struct Operation {
    std::string name;
    uint64_t number = 0;
    int rank = 0, size = 0;
    std::shared_ptr<const OperationLog> log;

    /// "all_reduce 'gradients' (operation 812 of rank 1 of 4; the last ones: …)".
    std::string describe() const;
  };

  /// How long an exchange may take.
  struct Limit {
    std::chrono::milliseconds time;
    bool is_after_work = false;  ///< the others may be at long work of their own
  };

  /// An exchange that was begun. Destroyed before finish() has returned, it still gives the others what it owes them.
  class Transfer {
   public:
    virtual ~Transfer() = default;
    /// Returns when everything has arrived and nothing of what was handed in is needed any more.
    virtual void finish(const Limit& limit) = 0;
  };

 protected:
  /// Sub-groups share the log of the group that they were split from.
  explicit ExchangeCommunicator(std::chrono::milliseconds timeout,
                                std::shared_ptr<OperationLog> operations = std::make_shared<OperationLog>())
      : timeout_(timeout), operations_(std::move(operations)) {}

  /// Begins to send sends[r] to rank r and to fill receives[r] from it, for all r including this rank; empty buffers
  /// are legal and need no message. Both ends agree on sizes. `kept` are the tensors that the buffers lie in, if they
  /// may be needed longer than the caller has them.
  virtual std::unique_ptr<Transfer> begin(Operation operation, std::span<const Send> sends,
                                          std::span<const Receive> receives, std::vector<at::Tensor> kept) = 0;

  std::chrono::milliseconds timeout() const { return timeout_; }

 private:
  Operation operation(std::string_view op, uint64_t number) const;
  int64_t bytes_to_others(std::span<const Send> sends) const;
  /// `kept`: what the spans lie in, for as long as a transport may still write into it after an error.
  void run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives,
           std::vector<at::Tensor> kept = {});
  void run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives, const Limit& limit,
           std::vector<at::Tensor> kept = {});
  std::unique_ptr<Work> start(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives,
                              std::vector<at::Tensor> kept, std::function<at::Tensor()> result);
  std::vector<int64_t> gather_sizes(int64_t mine, std::string_view op, const Limit& limit);
  std::vector<std::string> gather_bytes(std::string_view bytes, const std::vector<int64_t>& sizes, std::string_view op);

  const std::chrono::milliseconds timeout_;
  std::shared_ptr<OperationLog> operations_;
};

}  // namespace moe
