#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "comm/comm_check.h"
#include "comm/exchange_communicator.h"
#include "common/error.h"

namespace moe {
namespace {

constexpr int kTag = 7;
/// MPI counts are ints; larger buffers travel as several messages.
constexpr size_t kMaxMessageBytes = size_t{1} << 30;
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
  MpiCommunicator(MPI_Comm comm, bool owned, std::chrono::milliseconds timeout)
      : ExchangeCommunicator(timeout), comm_(comm, owned) {
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
    return std::make_unique<MpiCommunicator>(part, /*owned=*/true, timeout());
  }

 protected:
  void exchange(std::span<const Send> sends, std::span<const Receive> receives) override {
    std::vector<MPI_Request> requests;
    for (int step = 1; step < size_; ++step) {
      const int source = (rank_ - step + size_) % size_;
      for (Receive rest = receives[source]; !rest.empty();) {
        const size_t count = std::min(rest.size(), kMaxMessageBytes);
        requests.push_back(MPI_REQUEST_NULL);
        MOE_MPI_CHECK(MPI_Irecv(rest.data(), static_cast<int>(count), MPI_BYTE, source, kTag, comm_.get(), &requests.back()));
        rest = rest.subspan(count);
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int target = (rank_ + step) % size_;
      for (Send rest = sends[target]; !rest.empty();) {
        const size_t count = std::min(rest.size(), kMaxMessageBytes);
        requests.push_back(MPI_REQUEST_NULL);
        MOE_MPI_CHECK(MPI_Isend(rest.data(), static_cast<int>(count), MPI_BYTE, target, kTag, comm_.get(), &requests.back()));
        rest = rest.subspan(count);
      }
    }
    MOE_CHECK(sends[rank_].size() == receives[rank_].size(), describe_operation(), ": sizes to and from oneself differ");
    if (!receives[rank_].empty()) std::memcpy(receives[rank_].data(), sends[rank_].data(), receives[rank_].size());
    wait(requests);
  }

 private:
  void wait(std::vector<MPI_Request>& requests) {
    const auto started = std::chrono::steady_clock::now();
    while (true) {
      int done = 0;
      MOE_MPI_CHECK(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE));
      if (done != 0) return;
      const auto waited = std::chrono::steady_clock::now() - started;
      if (waited > timeout()) {
        throw Timeout(concat("no answer within ", timeout().count(), " ms in ", describe_operation()));
      }
      if (waited < kYieldFor) {
        sched_yield();
      } else {
        std::this_thread::sleep_for(kSleep);
      }
    }
  }

  OwnedComm comm_;
  int rank_ = 0;
  int size_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds timeout) {
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, /*owned=*/false, timeout);
}

}  // namespace moe
