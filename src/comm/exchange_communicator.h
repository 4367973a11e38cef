#pragma once

#include <chrono>
#include <cstddef>
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
  at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) final;
  at::Tensor all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows, std::span<const int64_t> recv_rows,
                        std::string_view op) final;
  std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view op) final;
  std::vector<std::string> all_gather_bytes_after_work(std::string_view bytes, std::string_view op) final;
  void barrier(std::string_view op) final;
  std::shared_ptr<OperationLog> operations() const final { return operations_; }

 protected:
  using Send = std::span<const std::byte>;
  using Receive = std::span<std::byte>;

  /// Sub-groups share the log of the group that they were split from.
  explicit ExchangeCommunicator(std::chrono::milliseconds timeout,
                                std::shared_ptr<OperationLog> operations = std::make_shared<OperationLog>())
      : timeout_(timeout), limit_(timeout), operations_(std::move(operations)) {}

  /// Sends sends[r] to rank r and fills receives[r] from it, for all r including this rank; empty buffers are legal and
  /// need no message. Both ends agree on sizes. Ends within limit().
  virtual void exchange(std::span<const Send> sends, std::span<const Receive> receives) = 0;

  std::chrono::milliseconds timeout() const { return timeout_; }
  /// How long the current exchange may take.
  std::chrono::milliseconds limit() const { return limit_; }
  /// "all_reduce 'gradients' (operation 812 of rank 1 of 4; before it: …)".
  std::string describe_operation() const;

 private:
  void run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives);
  template <typename T>
  void reduce(T* data, int64_t count, std::string_view op);
  std::vector<int64_t> gather_sizes(int64_t mine, std::string_view op);
  std::vector<std::string> gather_bytes(std::string_view bytes, const std::vector<int64_t>& sizes, std::string_view op);

  const std::chrono::milliseconds timeout_;
  std::chrono::milliseconds limit_;
  std::shared_ptr<OperationLog> operations_;
};

}  // namespace moe
