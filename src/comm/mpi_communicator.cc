#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "comm/comm_check.h"
#include "comm/exchange_communicator.h"
#include "common/error.h"
#include "common/log.h"

namespace moe {
namespace {

/// Every MPI allows tags up to here (MPI 4.0, 8.1.2: MPI_TAG_UB is at least 32767).
constexpr uint64_t kTags = 32768;
/// A wait first polls and yields, since most are short and ranks may share cores; a long one sleeps between looks.
constexpr std::chrono::milliseconds kYieldFor{20};
constexpr std::chrono::microseconds kSleep{200};

/// Owns a communicator made by us; the world's own is only borrowed.
class OwnedComm {
 public:
  OwnedComm(MPI_Comm comm, bool owned) : comm_(comm), owned_(owned) {}
  OwnedComm(const OwnedComm&) = delete;
  OwnedComm& operator=(const OwnedComm&) = delete;
  ~OwnedComm() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (owned_ && finalized == 0) MPI_Comm_free(&comm_);
  }
  MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_;
  bool owned_;
};

/// What a communicator and its transfers share; lives as long as any of them.
struct MpiGroup {
  MpiGroup(MPI_Comm comm_in, bool owned) : comm(comm_in, owned) {
    MOE_MPI_CHECK(MPI_Comm_rank(comm_in, &rank));
    MOE_MPI_CHECK(MPI_Comm_size(comm_in, &size));
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup() {
    collect();
    // MPI owns the buffers of what is still under way: they must outlive it, whoever forgot them.
    static auto& never_freed = *new std::vector<std::vector<at::Tensor>>;
    for (Abandoned& one : abandoned) never_freed.push_back(std::move(one.kept));
  }

  /// Messages that nobody waits for, and the tensors that they lie in.
  struct Abandoned {
    std::vector<MPI_Request> requests;
    std::vector<at::Tensor> kept;
  };

  /// Lets go of those that have arrived.
  void collect() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    std::erase_if(abandoned, [](Abandoned& one) {
      int done = 0;
      const int status =
          MPI_Testall(static_cast<int>(one.requests.size()), one.requests.data(), &done, MPI_STATUSES_IGNORE);
      return status == MPI_SUCCESS && done != 0;
    });
  }

  OwnedComm comm;
  int rank = 0, size = 0;
  std::vector<Abandoned> abandoned;
};

/// Messages on their way.
class MpiTransfer final : public ExchangeCommunicator::Transfer {
 public:
  using Send = ExchangeCommunicator::Send;
  using Receive = ExchangeCommunicator::Receive;

  MpiTransfer(std::shared_ptr<MpiGroup> group, ExchangeCommunicator::Operation operation,
              std::chrono::milliseconds tell_after, int64_t max_message_bytes, std::vector<at::Tensor> kept)
      : group_(std::move(group)),
        operation_(std::move(operation)),
        tell_after_(tell_after),
        max_message_bytes_(max_message_bytes),
        kept_(std::move(kept)) {}

  ~MpiTransfer() override {
    if (!requests_.empty()) group_->abandoned.push_back({std::move(requests_), std::move(kept_)});
  }

  void post(std::span<const Send> sends, std::span<const Receive> receives) {
    const int rank = group_->rank, size = group_->size;
    for (int step = 1; step < size; ++step) {
      const int source = (rank - step + size) % size;
      for (Receive rest = receives[source]; !rest.empty();) {
        const int count = next_message(rest.size());
        requests_.push_back(MPI_REQUEST_NULL);
        expected_.push_back(count);
        sources_.push_back(source);
        MOE_MPI_CHECK(MPI_Irecv(rest.data(), count, MPI_BYTE, source, tag(), group_->comm.get(), &requests_.back()));
        rest = rest.subspan(count);
      }
    }
    for (int step = 1; step < size; ++step) {
      const int target = (rank + step) % size;
      for (Send rest = sends[target]; !rest.empty();) {
        const int count = next_message(rest.size());
        requests_.push_back(MPI_REQUEST_NULL);
        MOE_MPI_CHECK(MPI_Isend(rest.data(), count, MPI_BYTE, target, tag(), group_->comm.get(), &requests_.back()));
        rest = rest.subspan(count);
      }
    }
    if (!receives[rank].empty()) std::memcpy(receives[rank].data(), sends[rank].data(), receives[rank].size());
  }

  void finish(const ExchangeCommunicator::Limit& limit) override {
    std::vector<MPI_Status> statuses(requests_.size());
    const auto started = std::chrono::steady_clock::now();
    std::chrono::nanoseconds told = tell_after_;
    while (true) {
      int done = 0;
      const int status = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses.data());
      if (status == MPI_ERR_IN_STATUS) throw_for(statuses);
      MOE_MPI_CHECK(status);
      if (done != 0) break;
      const auto waited = std::chrono::steady_clock::now() - started;
      if (waited > limit.time) {
        throw Timeout(concat("no answer within ", limit.time.count(), " ms in ", operation_.describe()));
      }
      if (limit.is_after_work && waited > told) {
        tell_missing(std::chrono::duration_cast<std::chrono::seconds>(waited), limit);
        told += tell_after_;
      }
      if (waited < kYieldFor) {
        sched_yield();
      } else {
        std::this_thread::sleep_for(kSleep);
      }
    }
    requests_.clear();
    for (size_t i = 0; i < expected_.size(); ++i) {
      int count = 0;
      MOE_MPI_CHECK(MPI_Get_count(&statuses[i], MPI_BYTE, &count));
      if (count != expected_[i])
        throw_size_mismatch(statuses[i].MPI_SOURCE, concat(count, " bytes where ", expected_[i], " were expected"));
    }
  }

 private:
  int next_message(size_t bytes_left) const {
    return static_cast<int>(std::min<int64_t>(bytes_left, max_message_bytes_));
  }

  /// From the operation's name: ranks in different operations never take each other's bytes, but wait and say where.
  /// Operations of one name that are under way together keep their order, since MPI's messages do not overtake.
  int tag() const { return static_cast<int>(std::hash<std::string>()(operation_.name) % kTags); }

  /// A rank that was stopped in the midst of its own work looks like one that works: whoever waits says for whom. Of
  /// several the lowest.
  void tell_missing(std::chrono::seconds waited, const ExchangeCommunicator::Limit& limit) const {
    std::set<int> missing;
    for (size_t i = 0; i < sources_.size(); ++i) {
      int arrived = 0;
      MOE_MPI_CHECK(MPI_Request_get_status(requests_[i], &arrived, MPI_STATUS_IGNORE));
      if (arrived == 0) missing.insert(sources_[i]);
    }
    std::string ranks;
    for (const int rank : missing) ranks += concat(ranks.empty() ? "" : ",", rank);
    const auto lower = std::distance(missing.begin(), missing.lower_bound(group_->rank));
    if (ranks.empty() || lower != group_->rank) return;
    log(LogLevel::kWarning,
        concat("event=waiting_for_ranks ranks=", ranks, " seconds=", waited.count(), " operation=\"", operation_.name,
               "\"; what a rank does alone (hashing, reading, writing) may take up to ",
               limit.time / std::chrono::hours(1),
               " h; if they are stopped or hang, end the gang: it goes on at its last checkpoint"));
  }

  [[noreturn]] void throw_for(std::span<const MPI_Status> statuses) const {
    for (const MPI_Status& status : statuses) {
      int error_class = MPI_SUCCESS;
      MPI_Error_class(status.MPI_ERROR, &error_class);
      if (error_class == MPI_ERR_TRUNCATE) throw_size_mismatch(status.MPI_SOURCE, "more bytes than were expected");
      if (error_class != MPI_SUCCESS && error_class != MPI_ERR_PENDING) MOE_MPI_CHECK(status.MPI_ERROR);
    }
    throw_mpi_error("MPI_Testall", MPI_ERR_IN_STATUS, __FILE__, __LINE__);
  }

  [[noreturn]] void throw_size_mismatch(int source, const std::string& what) const {
    throw Internal(concat("rank ", source, " sent ", what, " in ", operation_.describe()));
  }

  std::shared_ptr<MpiGroup> group_;
  ExchangeCommunicator::Operation operation_;
  std::chrono::milliseconds tell_after_;
  int64_t max_message_bytes_;
  std::vector<at::Tensor> kept_;
  std::vector<MPI_Request> requests_;    ///< receives come first; empty when all is done
  std::vector<int> expected_, sources_;  ///< bytes and rank of each receive
};

class MpiCommunicator final : public ExchangeCommunicator {
 public:
  MpiCommunicator(MPI_Comm comm, bool owned, std::chrono::milliseconds timeout, int64_t max_message_bytes,
                  std::shared_ptr<OperationLog> log)
      : ExchangeCommunicator(timeout, std::move(log)),
        group_(std::make_shared<MpiGroup>(comm, owned)),
        max_message_bytes_(max_message_bytes) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }

  std::unique_ptr<Communicator> split(int color, std::string_view op) override {
    barrier(op);  // bounded, unlike the split itself
    MPI_Comm part = MPI_COMM_NULL;
    MOE_MPI_CHECK(MPI_Comm_split(group_->comm.get(), color, group_->rank, &part));
    MOE_MPI_CHECK(MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN));
    return std::make_unique<MpiCommunicator>(part, /*owned=*/true, timeout(), max_message_bytes_, operations());
  }

 protected:
  std::unique_ptr<Transfer> begin(Operation operation, std::span<const Send> sends, std::span<const Receive> receives,
                                  std::vector<at::Tensor> kept) override {
    MOE_CHECK(sends[group_->rank].size() == receives[group_->rank].size(), operation.describe(),
              ": sizes to and from oneself differ");
    group_->collect();
    auto transfer =
        std::make_unique<MpiTransfer>(group_, std::move(operation), timeout(), max_message_bytes_, std::move(kept));
    transfer->post(sends, receives);
    return transfer;
  }

 private:
  std::shared_ptr<MpiGroup> group_;
  int64_t max_message_bytes_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds timeout, int64_t max_message_bytes) {
  MOE_CHECK(max_message_bytes > 0 && max_message_bytes <= INT32_MAX, "max_message_bytes ", max_message_bytes);
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, /*owned=*/false, timeout, max_message_bytes,
                                           std::make_shared<OperationLog>());
}

}  // namespace moe
