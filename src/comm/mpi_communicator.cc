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

class MpiCommunicator final : public ExchangeCommunicator {
 public:
  MpiCommunicator(MPI_Comm comm, bool owned, std::chrono::milliseconds timeout, int64_t max_message_bytes,
                  std::shared_ptr<OperationLog> log)
      : ExchangeCommunicator(timeout, std::move(log)), comm_(comm, owned), max_message_bytes_(max_message_bytes) {
    MOE_MPI_CHECK(MPI_Comm_rank(comm, &rank_));
    MOE_MPI_CHECK(MPI_Comm_size(comm, &size_));
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<Communicator> split(int color, std::string_view op) override {
    barrier(op);  // bounded, unlike the split itself
    MPI_Comm part = MPI_COMM_NULL;
    MOE_MPI_CHECK(MPI_Comm_split(comm_.get(), color, rank_, &part));
    MOE_MPI_CHECK(MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN));
    return std::make_unique<MpiCommunicator>(part, /*owned=*/true, timeout(), max_message_bytes_, operations());
  }

 protected:
  void exchange(std::span<const Send> sends, std::span<const Receive> receives) override {
    MOE_CHECK(sends[rank_].size() == receives[rank_].size(), describe_operation(),
              ": sizes to and from oneself differ");
    std::vector<MPI_Request> requests;
    std::vector<int> expected, sources;  // bytes and rank of each receive; these come first
    for (int step = 1; step < size_; ++step) {
      const int source = (rank_ - step + size_) % size_;
      for (Receive rest = receives[source]; !rest.empty();) {
        const int count = next_message(rest.size());
        requests.push_back(MPI_REQUEST_NULL);
        expected.push_back(count);
        sources.push_back(source);
        MOE_MPI_CHECK(MPI_Irecv(rest.data(), count, MPI_BYTE, source, tag(), comm_.get(), &requests.back()));
        rest = rest.subspan(count);
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int target = (rank_ + step) % size_;
      for (Send rest = sends[target]; !rest.empty();) {
        const int count = next_message(rest.size());
        requests.push_back(MPI_REQUEST_NULL);
        MOE_MPI_CHECK(MPI_Isend(rest.data(), count, MPI_BYTE, target, tag(), comm_.get(), &requests.back()));
        rest = rest.subspan(count);
      }
    }
    if (!receives[rank_].empty()) std::memcpy(receives[rank_].data(), sends[rank_].data(), receives[rank_].size());
    wait(requests, expected, sources);
  }

 private:
  int next_message(size_t bytes_left) const {
    return static_cast<int>(std::min<int64_t>(bytes_left, max_message_bytes_));
  }

  /// From the operation's name: ranks in different operations never take each other's bytes, but wait and say where.
  int tag() const { return static_cast<int>(std::hash<std::string>()(operations()->current()) % kTags); }

  /// A rank that was stopped in the midst of its own work looks like one that works: whoever waits says for whom. Of
  /// several the lowest.
  void tell_missing(std::span<MPI_Request> requests, std::span<const int> sources, std::chrono::seconds waited) const {
    std::set<int> missing;
    for (size_t i = 0; i < sources.size(); ++i) {
      int arrived = 0;
      MOE_MPI_CHECK(MPI_Request_get_status(requests[i], &arrived, MPI_STATUS_IGNORE));
      if (arrived == 0) missing.insert(sources[i]);
    }
    std::string ranks;
    for (const int rank : missing) ranks += concat(ranks.empty() ? "" : ",", rank);
    const auto lower = std::distance(missing.begin(), missing.lower_bound(rank_));
    if (ranks.empty() || lower != rank_) return;
    log(LogLevel::kWarning,
        concat("event=waiting_for_ranks ranks=", ranks, " seconds=", waited.count(), " operation=\"",
               operations()->current(), "\"; what a rank does alone (hashing, reading, writing) may take up to ",
               limit() / std::chrono::hours(1),
               " h; if they are stopped or hang, end the gang: it goes on at its last checkpoint"));
  }

  void wait(std::vector<MPI_Request>& requests, std::span<const int> expected, std::span<const int> sources) {
    std::vector<MPI_Status> statuses(requests.size());
    const auto started = std::chrono::steady_clock::now();
    std::chrono::nanoseconds told = timeout();
    while (true) {
      int done = 0;
      const int status = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, statuses.data());
      if (status == MPI_ERR_IN_STATUS) throw_for(statuses);
      MOE_MPI_CHECK(status);
      if (done != 0) break;
      const auto waited = std::chrono::steady_clock::now() - started;
      if (waited > limit()) {
        throw Timeout(concat("no answer within ", limit().count(), " ms in ", describe_operation()));
      }
      if (waited > told) {
        tell_missing(requests, sources, std::chrono::duration_cast<std::chrono::seconds>(waited));
        told += timeout();
      }
      if (waited < kYieldFor) {
        sched_yield();
      } else {
        std::this_thread::sleep_for(kSleep);
      }
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      int count = 0;
      MOE_MPI_CHECK(MPI_Get_count(&statuses[i], MPI_BYTE, &count));
      if (count != expected[i])
        throw_size_mismatch(statuses[i].MPI_SOURCE, concat(count, " bytes where ", expected[i], " were expected"));
    }
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
    throw Internal(concat("rank ", source, " sent ", what, " in ", describe_operation()));
  }

  OwnedComm comm_;
  int64_t max_message_bytes_;
  int rank_ = 0;
  int size_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds timeout, int64_t max_message_bytes) {
  MOE_CHECK(max_message_bytes > 0 && max_message_bytes <= INT32_MAX, "max_message_bytes ", max_message_bytes);
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, /*owned=*/false, timeout, max_message_bytes,
                                           std::make_shared<OperationLog>());
}

}  // namespace moe
