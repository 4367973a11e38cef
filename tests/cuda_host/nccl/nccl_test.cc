// The simulated NCCL between processes: what each rank gets, and that no fault leaves a rank waiting.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace moe {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

/// A rank of a communicator on the device, with a stream of its own.
class Rank {
 public:
  Rank(int rank, int size, const ncclUniqueId& id, milliseconds limit = milliseconds(20'000))
      : rank(rank), size(size), limit_(limit) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclCommInitRankConfig(&comm, size, id, rank, &config);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEventCreate(&event_);
    said = until([&] { return state() != ncclInProgress; });
  }

  float* device(const std::vector<float>& values) const {
    void* data = nullptr;
    cudaMalloc(&data, values.size() * sizeof(float));
    cudaMemcpy(data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
    return static_cast<float*>(data);
  }
  std::vector<float> host(const float* data, size_t count) const {
    std::vector<float> values(count);
    cudaMemcpy(values.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost);
    return values;
  }

  /// "done", or why it is not.
  std::string wait() {
    until([&] { return state() != ncclInProgress; });  // only now the stream holds it
    cudaEventRecord(event_, stream);
    const std::string ended = until([&] {
      const ncclResult_t now = state();
      return (now != ncclSuccess && now != ncclInProgress) || cudaEventQuery(event_) == cudaSuccess;
    });
    if (comm == nullptr) return ended;
    const ncclResult_t result = state();
    if (result != ncclSuccess && result != ncclInProgress)
      return std::string(ncclGetErrorString(result)) + ": " + ncclGetLastError(comm);
    return ended;
  }

  const int rank, size;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::string said;

 private:
  ncclResult_t state() const {
    ncclResult_t result = ncclSuccess;
    ncclCommGetAsyncError(comm, &result);
    return result;
  }

  std::string until(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + limit_;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) {
        ncclCommAbort(comm);
        comm = nullptr;
        return "deadline";
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return "done";
  }

  milliseconds limit_;
  cudaEvent_t event_ = nullptr;
};

/// What each rank said, each in a process of its own. A rank that says nothing was killed, or ended.
std::vector<std::string> said_by(int size,
                                 const std::function<std::string(int rank, const ncclUniqueId& id)>& rank_main) {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  std::vector<pid_t> children;
  std::vector<int> pipes;
  for (int rank = 0; rank < size; ++rank) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string said = rank_main(rank, id);
      if (::write(ends[1], said.data(), said.size()) < 0) ::_exit(2);
      ::_exit(0);
    }
    ::close(ends[1]);
    children.push_back(child);
    pipes.push_back(ends[0]);
  }
  // Who ends is buried at once: a dead rank is one that the machine no longer knows.
  for (int left = size; left > 0; --left) ::waitpid(-1, nullptr, 0);
  std::vector<std::string> said;
  for (const int pipe : pipes) {
    char text[1024];
    const ssize_t count = ::read(pipe, text, sizeof text);
    said.emplace_back(text, count > 0 ? static_cast<size_t>(count) : 0);
    ::close(pipe);
  }
  return said;
}

std::string to_text(const std::vector<float>& values) {
  std::string text;
  for (const float value : values) text += (text.empty() ? "" : " ") + std::to_string(static_cast<int>(value));
  return text;
}

TEST(NcclOnHostTest, CollectivesBetweenProcesses) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 3, id);
    const auto r = static_cast<float>(rank);
    float* const two = me.device({r + 1, 10 * (r + 1)});
    float* const out = me.device(std::vector<float>(6));
    ncclAllReduce(two, out, 2, ncclFloat32, ncclSum, me.comm, me.stream);
    std::string said = me.wait();
    said += ": " + to_text(me.host(out, 2));
    ncclAllGather(two, out, 2, ncclFloat32, me.comm, me.stream);
    said += ", " + me.wait();
    said += ": " + to_text(me.host(out, 6));
    float* const six = me.device({r, r, r + 10, r + 10, r + 20, r + 20});
    ncclReduceScatter(six, two, 2, ncclFloat32, ncclSum, me.comm, me.stream);
    said += ", " + me.wait();
    said += ": " + to_text(me.host(two, 2));
    ncclBroadcast(six, six, 6, ncclFloat32, 1, me.comm, me.stream);
    said += ", " + me.wait();
    return said + ": " + to_text(me.host(six, 6));
  };
  const std::vector<std::string> said = said_by(3, main);
  for (int rank = 0; rank < 3; ++rank) {
    const std::string sum = std::to_string(3 + 30 * rank);
    EXPECT_EQ(said[static_cast<size_t>(rank)],
              "done: 6 60, done: 1 10 2 20 3 30, done: " + sum + " " + sum + ", done: 1 1 11 11 21 21");
  }
}

/// Rank r sends (r + to) % 3 rows of its own number, of a size beyond a piece, to each; some send nothing.
TEST(NcclOnHostTest, AllToAllOfUnequalCounts) {
  constexpr size_t kRow = 10'000;
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 3, id);
    float* const own = me.device(std::vector<float>(2 * kRow, static_cast<float>(rank)));
    float* const out = me.device(std::vector<float>(6 * kRow, -1));
    ncclGroupStart();
    float* at = out;
    for (int peer = 0; peer < 3; ++peer) {
      const size_t rows = static_cast<size_t>((rank + peer) % 3);
      if (rows == 0) continue;  // the same both ways
      ncclSend(own, rows * kRow, ncclFloat32, peer, me.comm, me.stream);
      ncclRecv(at, rows * kRow, ncclFloat32, peer, me.comm, me.stream);
      at += rows * kRow;
    }
    ncclGroupEnd();
    std::string said = me.wait() + ":";
    const std::vector<float> got = me.host(out, 6 * kRow);
    for (size_t row = 0; row < 6; ++row) {
      said += " " + std::to_string(static_cast<int>(got[row * kRow])) +
              (got[row * kRow] == got[(row + 1) * kRow - 1] ? "" : "?");
    }
    return said;
  };
  EXPECT_THAT(said_by(3, main),
              ::testing::ElementsAre("done: 1 2 2 -1 -1 -1", "done: 0 1 1 -1 -1 -1", "done: 0 0 2 -1 -1 -1"));
}

TEST(NcclOnHostTest, AnExchangeThatIsNotGroupedHangsUntilItsDeadline) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 2, id, milliseconds(500));
    float* const data = me.device(std::vector<float>(8));
    ncclSend(data, 4, ncclFloat32, 1 - rank, me.comm, me.stream);
    ncclRecv(data + 4, 4, ncclFloat32, 1 - rank, me.comm, me.stream);
    return me.wait();
  };
  for (const std::string& said : said_by(2, main)) EXPECT_EQ(said, "deadline");
}

TEST(NcclOnHostTest, ADeadPeerIsNamed) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 3, id);
    if (rank == 1) ::raise(SIGKILL);
    float* const data = me.device({1, 2});
    ncclAllReduce(data, data, 2, ncclFloat32, ncclSum, me.comm, me.stream);
    return me.wait();
  };
  const std::vector<std::string> said = said_by(3, main);
  for (const int rank : {0, 2}) EXPECT_THAT(said[static_cast<size_t>(rank)], HasSubstr("rank 1 is dead"));
}

TEST(NcclOnHostTest, RanksThatDisagreeAreToldInWhat) {
  const auto other_collective = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 2, id);
    float* const data = me.device({1, 2});
    if (rank == 0) {
      ncclAllReduce(data, data, 2, ncclFloat32, ncclSum, me.comm, me.stream);
    } else {
      ncclBroadcast(data, data, 2, ncclFloat32, 0, me.comm, me.stream);
    }
    return me.wait();
  };
  for (const std::string& said : said_by(2, other_collective)) {
    EXPECT_THAT(said, HasSubstr("all_reduce(2, type 7, 0) #0"));
    EXPECT_THAT(said, HasSubstr("broadcast(2, type 7, 0) #0"));
  }
  const auto other_size = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 2, id);
    float* const data = me.device(std::vector<float>(16));
    ncclGroupStart();
    ncclSend(data, static_cast<size_t>(4 + rank), ncclFloat32, 1 - rank, me.comm, me.stream);
    ncclRecv(data + 8, 4, ncclFloat32, 1 - rank, me.comm, me.stream);
    ncclGroupEnd();
    return me.wait();
  };
  for (const std::string& said : said_by(2, other_size))
    EXPECT_THAT(said, ::testing::AllOf(HasSubstr("16 bytes"), HasSubstr("20 bytes")));
}

TEST(NcclOnHostTest, AnInitThatNeverCompletesEnds) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    if (rank == 1) return std::string("stays away");
    return Rank(rank, 3, id, milliseconds(300)).said;
  };
  const std::vector<std::string> said = said_by(3, main);
  for (const int rank : {0, 2}) EXPECT_EQ(said[static_cast<size_t>(rank)], "deadline") << rank;
}

/// On a GPU an event behind a call that is still in progress would be passed before its work.
TEST(NcclOnHostTest, TheStreamHoldsWorkOnceNcclIsNoMoreInProgress) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 2, id);
    float* const data = me.device({1, 2});
    ncclAllReduce(data, data, 2, ncclFloat32, ncclSum, me.comm, me.stream);
    cudaStreamSynchronize(me.stream);
    const std::string too_early = to_text(me.host(data, 2));
    me.wait();
    return too_early + " then " + to_text(me.host(data, 2));
  };
  for (const std::string& said : said_by(2, main)) EXPECT_EQ(said, "1 2 then 2 4");
}

/// Undefined in NCCL, the end of the process here.
TEST(NcclOnHostTest, AnAbortedCommunicatorIsNotCalled) {
  const auto main = [](int rank, const ncclUniqueId& id) {
    Rank me(rank, 1, id);
    ncclCommAbort(me.comm);
    ncclResult_t result = ncclSuccess;
    ncclCommGetAsyncError(me.comm, &result);
    return std::string("went on");
  };
  EXPECT_EQ(said_by(1, main)[0], "");
}

}  // namespace
}  // namespace moe
