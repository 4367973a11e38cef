#include "comm/nccl_communicator.h"

#include <numeric>
#include <utility>

#include "comm/hosted_communicator.h"
#include "comm/nccl_group.h"
#include "comm/row_counts.h"
#include "common/error.h"

namespace moe {
namespace {

/// The first counts[0] rows, the next counts[1], ...
std::vector<at::Tensor> parts_of(const at::Tensor& rows, std::span<const int64_t> counts) {
  std::vector<at::Tensor> parts;
  int64_t first = 0;
  for (const int64_t count : counts) {
    parts.push_back(rows.narrow(0, first, count));
    first += count;
  }
  MOE_CHECK(first == rows.size(0), "counts of ", first, " rows, not ", rows.size(0));
  return parts;
}

int64_t sum_of(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

/// What a collective is, for the log and for messages.
struct Operation {
  std::string name;
  uint64_t number = 0;
  int64_t sent_bytes = 0;

  std::string describe() const { return concat("'", name, "' (operation ", number, ")"); }
};

/// The stream waits for it, within the limit of its group.
class NcclWork final : public Work {
 public:
  NcclWork(Operation operation, std::shared_ptr<NcclGroup> group, NcclGroup::Wait wait,
           std::function<at::Tensor()> result, std::shared_ptr<OperationLog> log)
      : operation_(std::move(operation)),
        group_(std::move(group)),
        wait_(std::move(wait)),
        result_(std::move(result)),
        log_(std::move(log)) {}

  at::Tensor wait(std::chrono::milliseconds) override { return wait(); }
  at::Tensor wait() override {
    MOE_CHECK(wait_ != nullptr, operation_.describe(), " was waited for before");
    log_->begin_wait(operation_.name, operation_.number);
    std::exchange(wait_, nullptr)();
    at::Tensor result = result_();
    log_->end(operation_.sent_bytes);
    return result;
  }

 private:
  Operation operation_;
  std::shared_ptr<NcclGroup> group_;
  NcclGroup::Wait wait_;
  std::function<at::Tensor()> result_;  ///< keeps the tensors
  std::shared_ptr<OperationLog> log_;
};

class NcclCommunicator final : public HostedCommunicator {
 public:
  NcclCommunicator(Communicator& host, std::chrono::milliseconds timeout)
      : HostedCommunicator(host), timeout_(timeout), failure_(std::make_shared<NcclFailure>()) {}
  NcclCommunicator(std::unique_ptr<Communicator> host, std::chrono::milliseconds timeout,
                   std::shared_ptr<NcclFailure> failure)
      : HostedCommunicator(std::move(host)), timeout_(timeout), failure_(std::move(failure)) {}

  void all_reduce_sum(at::Tensor& tensor, std::string_view op) override {
    if (tensor.is_cpu()) return host().all_reduce_sum(tensor, op);
    if (size() == 1) return;
    // Each rank sums a slice in the order of ranks, and all collect the slices: the host's order, and its bits.
    const at::Tensor flat = tensor.detach().reshape(-1);
    std::vector<int64_t> lengths;
    for (int64_t r = 0; r < size(); ++r) lengths.push_back(flat.numel() * (r + 1) / size() - flat.numel() * r / size());
    const at::Tensor mine = reduce_scatter_sum(flat, lengths, op);
    tensor.detach().copy_(start_all_gather(mine, lengths, op)->wait().view_as(tensor));
  }

  void broadcast(at::Tensor& tensor, int root, std::string_view op) override {
    if (tensor.is_cpu()) return host().broadcast(tensor, root, op);
    if (size() == 1 || tensor.numel() == 0) return;
    MOE_CHECK(tensor.is_contiguous(), op, ": contiguous tensor expected");
    void* const data = tensor.mutable_data_ptr();
    const auto bytes = static_cast<size_t>(tensor.nbytes());
    const at::Tensor kept = tensor.detach();
    start(
        op, {kept}, rank() == root ? tensor.nbytes() * (size() - 1) : 0,
        [=](const NcclLibrary& nccl, ncclComm_t comm, cudaStream_t stream) {
          return nccl.broadcast(data, data, bytes, ncclUint8, root, comm, stream);
        },
        [kept] { return kept; })
        ->wait();
  }

  std::unique_ptr<Work> start_reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                 std::string_view op) override {
    if (tensor.is_cpu()) return host().start_reduce_scatter_sum(tensor, rows, op);
    require_counts(rows, size(), op);
    const at::Tensor all = tensor.detach().contiguous(), mine = empty_rows(all, rows[rank()]);
    std::vector<at::Tensor> arriving;
    for (int r = 0; r < size(); ++r) arriving.push_back(r == rank() ? parts_of(all, rows)[r] : at::empty_like(mine));
    return exchange(op, parts_of(all, rows), arriving, [all, arriving, mine] {
      mine.copy_(arriving.front());
      for (size_t r = 1; r < arriving.size(); ++r) mine.add_(arriving[r]);
      return mine;
    });
  }

  std::unique_ptr<Work> start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                         std::string_view op) override {
    if (tensor.is_cpu()) return host().start_all_gather(tensor, rows, op);
    require_counts(rows, size(), op);
    const at::Tensor mine = tensor.detach().contiguous(), all = empty_rows(mine, sum_of(rows));
    MOE_CHECK(mine.size(0) == rows[rank()], op, ": ", mine.size(0), " rows where ", rows[rank()], " were announced");
    std::vector<at::Tensor> arriving = parts_of(all, rows);
    arriving[rank()].copy_(mine);
    return exchange(op, std::vector<at::Tensor>(size(), mine), arriving, [all, mine] { return all; });
  }

  at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) override {
    if (tensor.is_cpu()) return host().all_gather(tensor, op);
    std::vector<int64_t> rows;
    for (const std::string& told : host().all_gather_bytes(std::to_string(tensor.size(0)), op))
      rows.push_back(std::stoll(told));
    return start_all_gather(tensor, rows, op)->wait();
  }

  std::unique_ptr<Work> start_all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows,
                                         std::span<const int64_t> recv_rows, std::string_view op) override {
    if (rows.is_cpu()) return host().start_all_to_all(rows, send_rows, recv_rows, op);
    require_counts(send_rows, size(), op);
    require_counts(recv_rows, size(), op);
    const at::Tensor sent = rows.detach().contiguous(), received = empty_rows(sent, sum_of(recv_rows));
    std::vector<at::Tensor> leaving = parts_of(sent, send_rows), arriving = parts_of(received, recv_rows);
    MOE_CHECK(send_rows[rank()] == recv_rows[rank()], op, ": sizes to and from oneself differ");
    arriving[rank()].copy_(leaving[rank()]);
    return exchange(op, leaving, arriving, [received, sent] { return received; });
  }

  std::unique_ptr<Communicator> split(int color, std::string_view op) override {
    return std::make_unique<NcclCommunicator>(host().split(color, op), timeout_, failure_);
  }

 private:
  /// What failed on this rank's GPU, in whichever group, is not gone on from.
  void before_host() const override { failure_->throw_if_any(); }

  /// NCCL is begun with the first collective of a GPU's tensors, which all ranks call in one order.
  std::unique_ptr<Work> start(std::string_view op, const std::vector<at::Tensor>& used, int64_t sent_bytes,
                              const NcclGroup::Calls& calls, std::function<at::Tensor()> result) {
    failure_->throw_if_any();
    if (group_ == nullptr) group_ = std::make_shared<NcclGroup>(host(), timeout_, failure_);
    Operation operation{std::string(op), operations()->start(op), sent_bytes};
    NcclGroup::Wait wait = group_->run(operation.describe(), used, calls);
    return std::make_unique<NcclWork>(std::move(operation), group_, std::move(wait), std::move(result), operations());
  }

  /// leaving[r] to rank r, arriving[r] from it; oneself's has been copied.
  std::unique_ptr<Work> exchange(std::string_view op, const std::vector<at::Tensor>& leaving,
                                 const std::vector<at::Tensor>& arriving, std::function<at::Tensor()> result) {
    std::vector<at::Tensor> used = leaving;
    used.insert(used.end(), arriving.begin(), arriving.end());
    int64_t sent = 0;
    for (int r = 0; r < size(); ++r) sent += r == rank() ? 0 : leaving[r].nbytes();
    const auto calls = [&](const NcclLibrary& nccl, ncclComm_t comm, cudaStream_t stream) {
      ncclResult_t first_problem = ncclSuccess;
      const auto keep = [&](ncclResult_t status) {
        if (first_problem == ncclSuccess && status != ncclInProgress) first_problem = status;
      };
      for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const at::Tensor &to = leaving[r], &from = arriving[r];
        if (to.numel() > 0)
          keep(nccl.send(to.const_data_ptr(), static_cast<size_t>(to.nbytes()), ncclUint8, r, comm, stream));
        if (from.numel() > 0)
          keep(nccl.receive(from.mutable_data_ptr(), static_cast<size_t>(from.nbytes()), ncclUint8, r, comm, stream));
      }
      return first_problem;
    };
    return start(op, used, sent, calls, std::move(result));
  }

  std::chrono::milliseconds timeout_;
  std::shared_ptr<NcclFailure> failure_;
  std::shared_ptr<NcclGroup> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl(Communicator& host, std::chrono::milliseconds timeout) {
  return std::make_unique<NcclCommunicator>(host, timeout);
}

std::string load_nccl() {
  int version = 0;
  nccl_library().get_version(&version);  // of 2.9 and newer: 10000 major + 100 minor + patch
  return concat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace moe
