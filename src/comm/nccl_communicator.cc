#include "comm/nccl_communicator.h"

#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <numeric>
#include <thread>
#include <utility>

#include "comm/nccl_library.h"
#include "comm/nccl_watch.h"
#include "common/error.h"

namespace moe {
namespace {

/// NCCL is begun, and its host threads come so far, in turns of this.
constexpr std::chrono::microseconds kPoll{100};

void require_counts(std::span<const int64_t> counts, int ranks, std::string_view op) {
  MOE_CHECK(static_cast<int>(counts.size()) == ranks, op, ": one count per rank expected");
}

at::Tensor empty_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, like.options().requires_grad(false));
}

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

/// NCCL of one group of ranks, on this rank's GPU. Lives as long as a communicator or a work of it.
class NcclGroup {
 public:
  /// Collective over `host`.
  NcclGroup(Communicator& host, std::chrono::milliseconds timeout)
      : rank_(host.rank()),
        size_(host.size()),
        timeout_(timeout),
        device_(guard().getDevice()),
        stream_(guard().getStreamFromGlobalPool(device_, /*isHighPriority=*/true)) {
    const NcclLibrary& nccl = nccl_library();
    ncclUniqueId id{};
    if (rank_ == 0) check(nccl.get_unique_id(&id), "NCCL's id");
    const std::string bytes = host.broadcast_bytes({id.internal, sizeof id.internal}, 0, "NCCL's id");
    std::copy(bytes.begin(), bytes.end(), id.internal);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check(nccl.init_rank(&comm_, size_, id, rank_, &config), "the begin of NCCL");
    settle("the begin of NCCL");
    watch_ = std::make_unique<NcclWatch>(comm_, concat("rank ", rank_, " of ", size_), timeout_);
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  ~NcclGroup() {
    const bool is_whole = watch_->is_whole();
    watch_.reset();
    if (is_whole) nccl_library().destroy(comm_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  NcclWatch& watch() { return *watch_; }

  /// Enqueues `calls` of NCCL as one piece of work, behind what the current stream holds, and returns the event behind
  /// it. `used`: the tensors that it reads and writes.
  template <typename Calls>
  std::shared_ptr<c10::Event> run(const std::string& operation, const std::vector<at::Tensor>& used,
                                  const Calls& calls) {
    watch_->require_whole();
    const c10::Stream current = guard().getStream(device_);
    c10::Event ready(c10::kCUDA);
    ready.record(current);
    ready.block(stream_);
    for (const at::Tensor& tensor : used) {
      if (tensor.numel() > 0) tensor.record_stream(stream_);
    }
    const NcclLibrary& nccl = nccl_library();
    check(nccl.group_start(), operation);
    calls(nccl, comm_, static_cast<cudaStream_t>(stream_.native_handle()));
    check(nccl.group_end(), operation);
    settle(operation);
    auto done = std::make_shared<c10::Event>(c10::kCUDA);
    done->record(stream_);
    auto watched = std::make_shared<c10::Event>(c10::kCUDA);
    watched->record(stream_);
    watch_->add(operation, [watched] { return watched->query(); });
    return done;
  }

  /// The current stream goes on behind the event.
  void wait_for(const c10::Event& done) const { done.block(guard().getStream(device_)); }

  void check(ncclResult_t result, const std::string& operation) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    throw HardwareError(concat("NCCL: ", nccl_library().get_error_string(result), " (",
                               nccl_library().get_last_error(comm_), ") in ", operation, " of rank ", rank_, " of ",
                               size_));
  }

 private:
  static c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(c10::kCUDA); }

  /// Until NCCL's own threads have taken what they were given: only then does the stream hold it.
  void settle(const std::string& operation) {
    const auto end = std::chrono::steady_clock::now() + timeout_;
    ncclResult_t state = ncclInProgress;
    while (true) {
      check(nccl_library().get_async_error(comm_, &state), operation);
      check(state, operation);
      if (state == ncclSuccess) return;
      if (std::chrono::steady_clock::now() > end) {
        nccl_library().abort(comm_);
        throw Timeout(
            concat("no answer within ", timeout_.count(), " ms in ", operation, " of rank ", rank_, " of ", size_));
      }
      std::this_thread::sleep_for(kPoll);
    }
  }

  const int rank_, size_;
  const std::chrono::milliseconds timeout_;
  const c10::Device device_;
  const c10::Stream stream_;
  ncclComm_t comm_ = nullptr;
  std::unique_ptr<NcclWatch> watch_;
};

class NcclWork final : public Work {
 public:
  NcclWork(std::shared_ptr<NcclGroup> group, std::shared_ptr<c10::Event> done, std::vector<at::Tensor> kept,
           std::function<at::Tensor()> result, std::shared_ptr<OperationLog> log, std::string op, uint64_t number,
           int64_t sent_bytes)
      : group_(std::move(group)),
        done_(std::move(done)),
        kept_(std::move(kept)),
        result_(std::move(result)),
        log_(std::move(log)),
        op_(std::move(op)),
        number_(number),
        sent_bytes_(sent_bytes) {}

  /// The stream waits, within the limit of the group.
  at::Tensor wait(std::chrono::milliseconds) override { return wait(); }
  at::Tensor wait() override {
    MOE_CHECK(done_ != nullptr, op_, " (operation ", number_, ") was waited for before");
    log_->begin_wait(op_, number_);
    group_->watch().require_whole();
    group_->wait_for(*std::exchange(done_, nullptr));
    at::Tensor result = result_();
    log_->end(sent_bytes_);
    return result;
  }

 private:
  std::shared_ptr<NcclGroup> group_;
  std::shared_ptr<c10::Event> done_;
  std::vector<at::Tensor> kept_;
  std::function<at::Tensor()> result_;
  std::shared_ptr<OperationLog> log_;
  std::string op_;
  uint64_t number_;
  int64_t sent_bytes_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& host, std::unique_ptr<Communicator> owned, std::chrono::milliseconds timeout)
      : owned_(std::move(owned)), host_(host), timeout_(timeout) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  void all_reduce_sum(at::Tensor& tensor, std::string_view op) override {
    if (tensor.is_cpu()) return host_.all_reduce_sum(tensor, op);
    if (size() == 1) return;
    // Each rank sums a slice in the order of ranks, and all collect the slices: the host's order, and its bits.
    const at::Tensor flat = tensor.detach().reshape(-1);
    std::vector<int64_t> lengths;
    for (int64_t r = 0; r < size(); ++r) lengths.push_back(flat.numel() * (r + 1) / size() - flat.numel() * r / size());
    const at::Tensor mine = reduce_scatter_sum(flat, lengths, op);
    tensor.detach().copy_(start_all_gather(mine, lengths, op)->wait().view_as(tensor));
  }

  void broadcast(at::Tensor& tensor, int root, std::string_view op) override {
    if (tensor.is_cpu()) return host_.broadcast(tensor, root, op);
    if (size() == 1 || tensor.numel() == 0) return;
    MOE_CHECK(tensor.is_contiguous(), op, ": contiguous tensor expected");
    void* const data = tensor.mutable_data_ptr();
    const auto bytes = static_cast<size_t>(tensor.nbytes());
    const at::Tensor kept = tensor.detach();
    start(
        op, {kept}, rank() == root ? tensor.nbytes() * (size() - 1) : 0,
        [&](const NcclLibrary& nccl, ncclComm_t comm, cudaStream_t stream) {
          group().check(nccl.broadcast(data, data, bytes, ncclUint8, root, comm, stream), std::string(op));
        },
        [kept] { return kept; })
        ->wait();
  }

  std::unique_ptr<Work> start_reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                 std::string_view op) override {
    if (tensor.is_cpu()) return host_.start_reduce_scatter_sum(tensor, rows, op);
    require_counts(rows, size(), op);
    const at::Tensor all = tensor.detach().contiguous(), mine = empty_rows(all, rows[rank()]);
    std::vector<at::Tensor> arriving;
    for (int r = 0; r < size(); ++r) arriving.push_back(r == rank() ? parts_of(all, rows)[r] : at::empty_like(mine));
    return exchange(op, parts_of(all, rows), arriving, [arriving, mine] {
      mine.copy_(arriving.front());
      for (size_t r = 1; r < arriving.size(); ++r) mine.add_(arriving[r]);
      return mine;
    });
  }

  std::unique_ptr<Work> start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                         std::string_view op) override {
    if (tensor.is_cpu()) return host_.start_all_gather(tensor, rows, op);
    require_counts(rows, size(), op);
    const at::Tensor mine = tensor.detach().contiguous(), all = empty_rows(mine, sum_of(rows));
    MOE_CHECK(mine.size(0) == rows[rank()], op, ": ", mine.size(0), " rows where ", rows[rank()], " were announced");
    std::vector<at::Tensor> arriving = parts_of(all, rows);
    arriving[rank()].copy_(mine);
    return exchange(op, std::vector<at::Tensor>(size(), mine), std::move(arriving), [all] { return all; });
  }

  at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) override {
    if (tensor.is_cpu()) return host_.all_gather(tensor, op);
    std::vector<int64_t> rows;
    for (const std::string& told : host_.all_gather_bytes(std::to_string(tensor.size(0)), op))
      rows.push_back(std::stoll(told));
    return start_all_gather(tensor, rows, op)->wait();
  }

  std::unique_ptr<Work> start_all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows,
                                         std::span<const int64_t> recv_rows, std::string_view op) override {
    if (rows.is_cpu()) return host_.start_all_to_all(rows, send_rows, recv_rows, op);
    require_counts(send_rows, size(), op);
    require_counts(recv_rows, size(), op);
    const at::Tensor sent = rows.detach().contiguous(), received = empty_rows(sent, sum_of(recv_rows));
    std::vector<at::Tensor> leaving = parts_of(sent, send_rows), arriving = parts_of(received, recv_rows);
    MOE_CHECK(send_rows[rank()] == recv_rows[rank()], op, ": sizes to and from oneself differ");
    arriving[rank()].copy_(leaving[rank()]);
    return exchange(op, std::move(leaving), std::move(arriving), [received] { return received; });
  }

  std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view op) override {
    return host_.all_gather_bytes(bytes, op);
  }
  std::vector<std::string> all_gather_bytes_after_work(std::string_view bytes, std::string_view op) override {
    return host_.all_gather_bytes_after_work(bytes, op);
  }
  void barrier(std::string_view op) override { host_.barrier(op); }
  std::unique_ptr<Communicator> split(int color, std::string_view op) override {
    std::unique_ptr<Communicator> part = host_.split(color, op);
    Communicator& host = *part;
    return std::make_unique<NcclCommunicator>(host, std::move(part), timeout_);
  }
  std::shared_ptr<OperationLog> operations() const override { return host_.operations(); }

 private:
  /// Begun with the first collective of a GPU's tensors, which all ranks call in one order.
  NcclGroup& group() {
    if (group_ == nullptr) group_ = std::make_shared<NcclGroup>(host_, timeout_);
    return *group_;
  }

  template <typename Calls>
  std::unique_ptr<Work> start(std::string_view op, std::vector<at::Tensor> used, int64_t sent_bytes, const Calls& calls,
                              std::function<at::Tensor()> result) {
    NcclGroup& nccl = group();
    const uint64_t number = operations()->start(op);
    const std::shared_ptr<c10::Event> done = nccl.run(concat("'", op, "' (operation ", number, ")"), used, calls);
    return std::make_unique<NcclWork>(group_, done, std::move(used), std::move(result), operations(), std::string(op),
                                      number, sent_bytes);
  }

  /// leaving[r] to rank r, arriving[r] from it; oneself's has been copied.
  std::unique_ptr<Work> exchange(std::string_view op, std::vector<at::Tensor> leaving, std::vector<at::Tensor> arriving,
                                 std::function<at::Tensor()> result) {
    std::vector<at::Tensor> used = leaving;
    used.insert(used.end(), arriving.begin(), arriving.end());
    int64_t sent = 0;
    for (int r = 0; r < size(); ++r) sent += r == rank() ? 0 : leaving[r].nbytes();
    const auto calls = [&](const NcclLibrary& nccl, ncclComm_t comm, cudaStream_t stream) {
      for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const std::string name(op);
        if (leaving[r].numel() > 0) {
          group().check(nccl.send(leaving[r].const_data_ptr(), static_cast<size_t>(leaving[r].nbytes()), ncclUint8, r,
                                  comm, stream),
                        name);
        }
        if (arriving[r].numel() > 0) {
          group().check(nccl.receive(arriving[r].mutable_data_ptr(), static_cast<size_t>(arriving[r].nbytes()),
                                     ncclUint8, r, comm, stream),
                        name);
        }
      }
    };
    return start(op, std::move(used), sent, calls, std::move(result));
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& host_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<NcclGroup> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl(Communicator& host, std::chrono::milliseconds timeout) {
  return std::make_unique<NcclCommunicator>(host, nullptr, timeout);
}

bool has_nccl() {
  return true;
}

}  // namespace moe
