#include "comm/exchange_communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/error.h"

namespace moe {
namespace {

/// Up to this many elements every rank sends all of them to all: one exchange instead of two.
constexpr int64_t kSmallReduction = 4096;

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())};
}

std::span<std::byte> writable_bytes_of(at::Tensor& tensor) {
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
void add_in_rank_order(const std::vector<T>& parts, int64_t stride, int64_t ranks, T* sum) {
  std::copy_n(parts.data(), stride, sum);
  for (int64_t r = 1; r < ranks; ++r) {
    const T* part = parts.data() + r * stride;
    for (int64_t i = 0; i < stride; ++i) sum[i] += part[i];
  }
}

void require_cpu_contiguous(const at::Tensor& tensor, std::string_view op) {
  MOE_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), op, ": contiguous CPU tensor expected");
}

}  // namespace

std::string ExchangeCommunicator::describe_operation() const {
  return concat(operations_->current(), " (operation ", operations_->sequence(), " of rank ", rank(), " of ", size(),
                "; the last ones: ", operations_->recent(5), ")");
}

void ExchangeCommunicator::run(std::string_view op, std::span<const Send> sends, std::span<const Receive> receives) {
  operations_->begin(op, limit_ != timeout_);
  exchange(sends, receives);
  int64_t sent = 0;
  for (int r = 0; r < size(); ++r) sent += r == rank() ? 0 : static_cast<int64_t>(sends[r].size());
  operations_->end(sent);
}

template <typename T>
void ExchangeCommunicator::reduce(T* data, int64_t count, std::string_view op) {
  const int64_t ranks = size(), me = rank();
  std::vector<Send> sends(ranks);
  std::vector<Receive> receives(ranks);
  if (count <= kSmallReduction) {
    std::vector<T> parts(ranks * count);
    for (int64_t r = 0; r < ranks; ++r) {
      sends[r] = bytes_of(data, count);
      receives[r] = writable_bytes_of(parts.data() + r * count, count);
    }
    run(op, sends, receives);
    add_in_rank_order(parts, count, ranks, data);
    return;
  }
  // Rank r sums slice r; then everybody collects the sums. Each sum is made once and copied, so replicas hold the same
  // bits by construction, for two passes of the data over the wire instead of one per rank.
  const auto begin = [&](int64_t r) { return count * r / ranks; };
  const auto length = [&](int64_t r) { return begin(r + 1) - begin(r); };
  const int64_t mine = length(me);
  std::vector<T> parts(ranks * mine);
  for (int64_t r = 0; r < ranks; ++r) {
    sends[r] = bytes_of(data + begin(r), length(r));
    receives[r] = writable_bytes_of(parts.data() + r * mine, mine);
  }
  run(op, sends, receives);
  std::vector<T> sum(mine);
  add_in_rank_order(parts, mine, ranks, sum.data());
  for (int64_t r = 0; r < ranks; ++r) {
    sends[r] = bytes_of(sum.data(), mine);
    receives[r] = writable_bytes_of(data + begin(r), length(r));
  }
  run(op, sends, receives);
}

void ExchangeCommunicator::all_reduce_sum(at::Tensor& tensor, std::string_view op) {
  require_cpu_contiguous(tensor, op);
  switch (tensor.scalar_type()) {
    case at::kFloat: return reduce(tensor.mutable_data_ptr<float>(), tensor.numel(), op);
    case at::kDouble: return reduce(tensor.mutable_data_ptr<double>(), tensor.numel(), op);
    case at::kLong: return reduce(tensor.mutable_data_ptr<int64_t>(), tensor.numel(), op);
    default: throw Internal(concat(op, ": all_reduce_sum takes float, double and int64, not ", tensor.dtype().name()));
  }
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
  run(op, sends, receives);
}

std::vector<int64_t> ExchangeCommunicator::gather_sizes(int64_t mine, std::string_view op) {
  std::vector<int64_t> all(size());
  std::vector<Send> sends(size(), bytes_of(&mine, 1));
  std::vector<Receive> receives;
  for (int64_t& value : all) receives.push_back(writable_bytes_of(&value, 1));
  run(op, sends, receives);
  return all;
}

at::Tensor ExchangeCommunicator::all_gather(const at::Tensor& tensor, std::string_view op) {
  const at::Tensor mine = tensor.contiguous();
  const std::vector<int64_t> counts = gather_sizes(mine.size(0), op);
  std::vector<int64_t> shape = mine.sizes().vec();
  shape[0] = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  at::Tensor all = at::empty(shape, mine.options());
  std::vector<Send> sends(size(), bytes_of(mine));
  std::vector<Receive> receives;
  int64_t first = 0;
  for (const int64_t count : counts) {
    at::Tensor part = all.narrow(0, first, count);
    receives.push_back(writable_bytes_of(part));
    first += count;
  }
  run(op, sends, receives);
  return all;
}

at::Tensor ExchangeCommunicator::all_to_all(const at::Tensor& rows_in, std::span<const int64_t> send_rows,
                                            std::span<const int64_t> recv_rows, std::string_view op) {
  const at::Tensor rows = rows_in.contiguous();
  const auto ranks = static_cast<size_t>(size());
  MOE_CHECK(send_rows.size() == ranks && recv_rows.size() == ranks, op, ": one count per rank expected");
  MOE_CHECK(std::accumulate(send_rows.begin(), send_rows.end(), int64_t{0}) == rows.size(0), op,
            ": counts do not sum to the rows");
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = std::accumulate(recv_rows.begin(), recv_rows.end(), int64_t{0});
  at::Tensor received = at::empty(shape, rows.options());
  std::vector<Send> sends;
  std::vector<Receive> receives;
  int64_t sent = 0, arrived = 0;
  for (int r = 0; r < size(); ++r) {
    sends.push_back(bytes_of(rows.narrow(0, sent, send_rows[r])));
    at::Tensor part = received.narrow(0, arrived, recv_rows[r]);
    receives.push_back(writable_bytes_of(part));
    sent += send_rows[r];
    arrived += recv_rows[r];
  }
  run(op, sends, receives);
  return received;
}

std::vector<std::string> ExchangeCommunicator::all_gather_bytes(std::string_view bytes, std::string_view op) {
  return gather_bytes(bytes, gather_sizes(static_cast<int64_t>(bytes.size()), op), op);
}

std::vector<std::string> ExchangeCommunicator::all_gather_bytes_after_work(std::string_view bytes,
                                                                           std::string_view op) {
  // Once the sizes are there, so are all ranks.
  limit_ = std::max<std::chrono::milliseconds>(timeout_, kLocalWorkLimit);
  const std::vector<int64_t> sizes = gather_sizes(static_cast<int64_t>(bytes.size()), op);
  limit_ = timeout_;
  return gather_bytes(bytes, sizes, op);
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
  gather_sizes(0, op);
}

}  // namespace moe
