#include "comm/exchange_communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "comm/row_counts.h"
#include "common/error.h"

namespace moe {
namespace {

/// Up to this many elements every rank sends all of them to all: one exchange instead of two.
constexpr int64_t kSmallReduction = 4096;

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())};
}

std::span<std::byte> writable_bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), static_cast<size_t>(tensor.nbytes())};
}

template <typename T>
std::span<const std::byte> bytes_of(const T* data, int64_t count) {
  return std::as_bytes(std::span(data, static_cast<size_t>(count)));
}

template <typename T>
std::span<std::byte> writable_bytes_of(T* data, int64_t count) {
  return std::as_writable_bytes(std::span(data, static_cast<size_t>(count)));
}

/// parts[r * stride + i] summed over r, in the order of r: of floats, (a + b) + c is not a + (b + c), so a sum in the
/// order of arrival, or along a tree that a library chooses by size, would make runs differ that should be the same.
template <typename T>
void add_in_rank_order(const at::Tensor& parts, const at::Tensor& sum) {
  const int64_t ranks = parts.size(0), stride = sum.numel();
  const T* part = parts.const_data_ptr<T>();
  T* const total = sum.mutable_data_ptr<T>();
  std::copy_n(part, stride, total);
  for (int64_t r = 1; r < ranks; ++r) {
    part += stride;
    for (int64_t i = 0; i < stride; ++i) total[i] += part[i];
  }
}

void require_summable(const at::Tensor& tensor, const char* collective, std::string_view op) {
  const at::ScalarType type = tensor.scalar_type();
  if (type == at::kFloat || type == at::kDouble || type == at::kLong) return;
  throw Internal(concat(op, ": ", collective, " takes float, double and int64, not ", tensor.dtype().name()));
}

/// parts [ranks, ...] -> sum [...], both contiguous.
void sum_parts(const at::Tensor& parts, const at::Tensor& sum) {
  switch (sum.scalar_type()) {
    case at::kFloat: return add_in_rank_order<float>(parts, sum);
    case at::kDouble: return add_in_rank_order<double>(parts, sum);
    default: return add_in_rank_order<int64_t>(parts, sum);
  }
}

void require_cpu_contiguous(const at::Tensor& tensor, std::string_view op) {
  MOE_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), op, ": contiguous CPU tensor expected");
}

/// The bytes of the first counts[0] rows of a contiguous tensor, of the next counts[1], ...
std::vector<std::span<const std::byte>> sends_of(const at::Tensor& tensor, std::span<const int64_t> counts) {
  std::vector<std::span<const std::byte>> spans;
  int64_t first = 0;
  for (const int64_t count : counts) {
    spans.push_back(bytes_of(tensor.narrow(0, first, count)));
    first += count;
  }
  return spans;
}

std::vector<std::span<std::byte>> receives_of(const at::Tensor& tensor, std::span<const int64_t> counts) {
  std::vector<std::span<std::byte>> spans;
  int64_t first = 0;
  for (const int64_t count : counts) {
    spans.push_back(writable_bytes_of(tensor.narrow(0, first, count)));
    first += count;
  }
  return spans;
}

class ExchangeWork final : public Work {
 public:
  ExchangeWork(std::string op, uint64_t number, int64_t sent_bytes, std::chrono::milliseconds timeout,
               std::shared_ptr<OperationLog> log, std::unique_ptr<ExchangeCommunicator::Transfer> transfer,
               std::function<at::Tensor()> result)
      : op_(std::move(op)),
        number_(number),
        sent_bytes_(sent_bytes),
        timeout_(timeout),
        log_(std::move(log)),
        transfer_(std::move(transfer)),
        result_(std::move(result)) {}

  at::Tensor wait(std::chrono::milliseconds limit) override {
    MOE_CHECK(transfer_ != nullptr, op_, " (operation ", number_, ") was waited for before");
    const auto transfer = std::move(transfer_);  // given up by a wait that fails, too
    log_->begin_wait(op_, number_);
    transfer->finish({limit});
    log_->end(sent_bytes_);
    return result_();
  }
  at::Tensor wait() override { return wait(timeout_); }

 private:
  std::string op_;
  uint64_t number_;
  int64_t sent_bytes_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<OperationLog> log_;
  std::unique_ptr<ExchangeCommunicator::Transfer> transfer_;
  std::function<at::Tensor()> result_;
};

}  // namespace

std::string ExchangeCommunicator::Operation::describe() const {
  return concat(name, " (operation ", number, " of rank ", rank, " of ", size, "; the last ones: ", log->recent(5),
                ")");
}

ExchangeCommunicator::Operation ExchangeCommunicator::operation(std::string_view op, uint64_t number) const {
  return {std::string(op), number, rank(), size(), operations_};
}

int64_t ExchangeCommunicator::bytes_to_others(std::span<const Send> sends) const {
  int64_t sent = 0;
  for (int r = 0; r < size(); ++r) sent += r == rank() ? 0 : static_cast<int64_t>(sends[r].size());
  return sent;
}

void ExchangeCommunicator::run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives,
                               std::vector<at::Tensor> kept) {
  run(op, sends, receives, {timeout_}, std::move(kept));
}

void ExchangeCommunicator::run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives,
                               const Limit& limit, std::vector<at::Tensor> kept) {
  const uint64_t number = operations_->begin(op, limit.is_after_work);
  begin(operation(op, number), sends, receives, std::move(kept))->finish(limit);
  operations_->end(bytes_to_others(sends));
}

std::unique_ptr<Work> ExchangeCommunicator::start(std::string_view op, std::span<const Send> sends,
                                                  std::span<const Receive> receives, std::vector<at::Tensor> kept,
                                                  std::function<at::Tensor()> result) {
  const uint64_t number = operations_->start(op);
  return std::make_unique<ExchangeWork>(std::string(op), number, bytes_to_others(sends), timeout_, operations_,
                                        begin(operation(op, number), sends, receives, std::move(kept)),
                                        std::move(result));
}

void ExchangeCommunicator::all_reduce_sum(at::Tensor& tensor, std::string_view op) {
  require_cpu_contiguous(tensor, op);
  require_summable(tensor, "all_reduce_sum", op);
  const at::Tensor flat = tensor.detach().view(-1);
  const int64_t ranks = size(), count = flat.numel();
  if (count <= kSmallReduction) {
    const at::Tensor parts = at::empty({ranks, count}, flat.options());
    const std::vector<Send> sends(ranks, bytes_of(flat));
    std::vector<Receive> receives;
    for (int64_t r = 0; r < ranks; ++r) receives.push_back(writable_bytes_of(parts.select(0, r)));
    run(op, sends, receives, {flat, parts});
    return sum_parts(parts, flat);
  }
  // Rank r sums slice r; then everybody collects the sums. Each sum is made once and copied, so replicas hold the same
  // bits by construction, for two passes of the data over the wire instead of one per rank.
  std::vector<int64_t> lengths;
  for (int64_t r = 0; r < ranks; ++r) lengths.push_back(count * (r + 1) / ranks - count * r / ranks);
  const at::Tensor sum = reduce_scatter_sum(flat, lengths, op);
  run(op, std::vector<Send>(ranks, bytes_of(sum)), receives_of(flat, lengths), {sum, flat});
}

std::unique_ptr<Work> ExchangeCommunicator::start_reduce_scatter_sum(const at::Tensor& tensor,
                                                                     std::span<const int64_t> rows,
                                                                     std::string_view op) {
  const at::Tensor all = tensor.detach().contiguous();
  require_cpu_contiguous(all, op);
  require_summable(all, "reduce_scatter_sum", op);
  require_counts(rows, size(), all.size(0), op);
  const at::Tensor mine = empty_rows(all, rows[rank()]), parts = at::empty({size(), mine.numel()}, mine.options());
  std::vector<Receive> receives;
  for (int r = 0; r < size(); ++r) receives.push_back(writable_bytes_of(parts.select(0, r)));
  return start(op, sends_of(all, rows), receives, {all, parts}, [parts, mine] {
    sum_parts(parts, mine);
    return mine;
  });
}

void ExchangeCommunicator::broadcast(at::Tensor& tensor, int root, std::string_view op) {
  require_cpu_contiguous(tensor, op);
  std::vector<Send> sends(size());
  std::vector<Receive> receives(size());
  if (rank() == root) {
    for (int r = 0; r < size(); ++r) {
      if (r != root) sends[r] = bytes_of(tensor);
    }
  } else {
    receives[root] = writable_bytes_of(tensor);
  }
  run(op, sends, receives, {tensor});
}

std::vector<int64_t> ExchangeCommunicator::gather_sizes(int64_t mine, std::string_view op, const Limit& limit) {
  std::vector<int64_t> all(size());
  std::vector<Send> sends(size(), bytes_of(&mine, 1));
  std::vector<Receive> receives;
  for (int64_t& value : all) receives.push_back(writable_bytes_of(&value, 1));
  run(op, sends, receives, limit);
  return all;
}

std::unique_ptr<Work> ExchangeCommunicator::start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                             std::string_view op) {
  const at::Tensor mine = tensor.contiguous();
  require_cpu_contiguous(mine, op);
  require_counts(rows, size(), op);
  MOE_CHECK(mine.size(0) == rows[rank()], op, ": ", mine.size(0), " rows where ", rows[rank()], " were announced");
  const at::Tensor all = empty_rows(mine, std::accumulate(rows.begin(), rows.end(), int64_t{0}));
  return start(op, std::vector<Send>(size(), bytes_of(mine)), receives_of(all, rows), {mine, all},
               [all] { return all; });
}

at::Tensor ExchangeCommunicator::all_gather(const at::Tensor& tensor, std::string_view op) {
  return start_all_gather(tensor, gather_sizes(tensor.size(0), op, {timeout_}), op)->wait();
}

std::unique_ptr<Work> ExchangeCommunicator::start_all_to_all(const at::Tensor& rows_in,
                                                             std::span<const int64_t> send_rows,
                                                             std::span<const int64_t> recv_rows, std::string_view op) {
  const at::Tensor rows = rows_in.contiguous();
  require_cpu_contiguous(rows, op);
  const int64_t arriving = std::accumulate(recv_rows.begin(), recv_rows.end(), int64_t{0});
  require_counts(send_rows, size(), rows.size(0), op);
  require_counts(recv_rows, size(), op);
  const at::Tensor received = empty_rows(rows, arriving);
  return start(op, sends_of(rows, send_rows), receives_of(received, recv_rows), {rows, received},
               [received] { return received; });
}

std::vector<std::string> ExchangeCommunicator::all_gather_bytes(std::string_view bytes, std::string_view op) {
  return gather_bytes(bytes, gather_sizes(static_cast<int64_t>(bytes.size()), op, {timeout_}), op);
}

std::vector<std::string> ExchangeCommunicator::all_gather_bytes_after_work(std::string_view bytes,
                                                                           std::string_view op) {
  // Once the sizes are there, so are all ranks.
  const Limit limit{std::max<std::chrono::milliseconds>(timeout_, kLocalWorkLimit), /*is_after_work=*/true};
  return gather_bytes(bytes, gather_sizes(static_cast<int64_t>(bytes.size()), op, limit), op);
}

std::vector<std::string> ExchangeCommunicator::gather_bytes(std::string_view bytes, const std::vector<int64_t>& sizes,
                                                            std::string_view op) {
  std::vector<std::string> all;
  for (const int64_t count : sizes) all.emplace_back(count, '\0');
  std::vector<Send> sends(size(), bytes_of(bytes.data(), static_cast<int64_t>(bytes.size())));
  std::vector<Receive> receives;
  for (std::string& text : all) receives.push_back(writable_bytes_of(text.data(), static_cast<int64_t>(text.size())));
  run(op, sends, receives);
  return all;
}

void ExchangeCommunicator::barrier(std::string_view op) {
  gather_sizes(0, op, {timeout_});
}

}  // namespace moe
