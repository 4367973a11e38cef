// The part of NCCL that a trainer calls, on the streams of the simulated device. As NCCL: work starts in stream order,
// a send ends when the receiver took it (so that an exchange that is not grouped hangs), a group is one piece of work,
// a communicator that does not block answers ncclInProgress. Sums are made in the order of ranks. Better than NCCL:
// ranks that disagree on operation, count or type get an error, where NCCL would hang.
#include <cuda_bf16.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_host/nccl/mailboxes.h"
#include "cuda_host/streams.h"

namespace host = moe::cuda_host;

struct ncclComm {
  host::World* world = nullptr;
  std::string name;
  int rank = 0, size = 0;
  bool blocks = true;
  int unanswered = 0;  ///< answers of ncclInProgress that are still to come after a call
  std::vector<std::pair<cudaStream_t, std::function<void()>>> unlaunched;  ///< and what is enqueued then, no sooner
  uint64_t collectives = 0;
  std::atomic<bool> is_aborted{false}, is_gone{false}, is_called{false};
};

namespace {

using Work = std::function<void()>;

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    default: return 8;
  }
}

/// Sends and receives of one communicator on one stream, since the outermost ncclGroupStart.
struct Exchange {
  ncclComm* comm;
  cudaStream_t stream;
  std::vector<host::Transfer> transfers;
};

thread_local int depth = 0;
thread_local std::vector<Exchange> exchanges;
/// Likewise.
struct Begun {
  ncclComm* comm;
  cudaStream_t stream;
  Work work;
};
thread_local std::vector<Begun> collectives;
thread_local std::string last_error = "no error";

/// A call of a communicator. NCCL allows one thread at a time, and none once it is aborted or destroyed; there what
/// follows is undefined, here it ends the process.
class Call {
 public:
  explicit Call(ncclComm* comm) : comm_(comm) {
    if (comm->is_gone) end("was aborted or destroyed");
    if (comm->is_called.exchange(true)) end("is called by another thread just now");
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() { comm_->is_called = false; }

 private:
  static void end(const char* why) {
    std::fprintf(stderr, "nccl_host: a communicator that %s is called\n", why);
    std::abort();
  }
  ncclComm* comm_;
};

ncclResult_t answer(ncclComm& comm) {
  if (comm.world->is_over()) return static_cast<ncclResult_t>(comm.world->error.load());
  if (comm.blocks) return ncclSuccess;
  comm.unanswered = 2;
  return ncclInProgress;
}

/// Runs by itself, and not when somebody waits for it: its peers wait too.
void start(cudaStream_t stream, Work work) {
  host::give_worker(host::stream_of(stream));
  host::enqueue(stream, std::move(work));
}

/// A communicator that does not block has NCCL's own threads do it: the stream holds it once they are no more in
/// progress.
void launch(ncclComm& comm, cudaStream_t stream, Work work) {
  if (comm.blocks) return start(stream, std::move(work));
  comm.unlaunched.emplace_back(stream, std::move(work));
}

template <typename T>
void accumulate(std::vector<std::byte>& sum, const std::vector<std::byte>& other, ncclRedOp_t op) {
  auto* const a = reinterpret_cast<T*>(sum.data());
  const auto* const b = reinterpret_cast<const T*>(other.data());
  for (size_t i = 0; i < sum.size() / sizeof(T); ++i) {
    a[i] = op == ncclMax ? (a[i] < b[i] ? b[i] : a[i]) : op == ncclMin ? (b[i] < a[i] ? b[i] : a[i]) : T(a[i] + b[i]);
  }
}

void accumulate(std::vector<std::byte>& sum, const std::vector<std::byte>& other, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclFloat32: return accumulate<float>(sum, other, op);
    case ncclFloat64: return accumulate<double>(sum, other, op);
    case ncclBfloat16: return accumulate<__nv_bfloat16>(sum, other, op);
    case ncclInt32: return accumulate<int32_t>(sum, other, op);
    default: return accumulate<int64_t>(sum, other, op);
  }
}

/// Over the ranks, in their order.
std::vector<std::byte> sum_of(const std::vector<std::vector<std::byte>>& parts, ncclDataType_t type, ncclRedOp_t op) {
  std::vector<std::byte> sum = parts[0];
  for (size_t r = 1; r < parts.size(); ++r) accumulate(sum, parts[r], type, op);
  return sum;
}

bool can_sum(ncclDataType_t type, ncclRedOp_t op) {
  const bool is_known =
      type == ncclFloat32 || type == ncclFloat64 || type == ncclBfloat16 || type == ncclInt32 || type == ncclInt64;
  return is_known && (op == ncclSum || op == ncclMax || op == ncclMin);
}

/// What a collective sends to each rank, and what it makes of what it got from each.
struct Collective {
  std::string what;
  std::function<std::pair<const void*, size_t>(int to)> send;
  size_t receives = 0;  ///< bytes from each rank that sends
  std::function<bool(int from)> is_sender = [](int) { return true; };
  std::function<void(const std::vector<std::vector<std::byte>>&)> take;
};

ncclResult_t begin(ncclComm* comm, cudaStream_t stream, Collective collective) {
  const Call call(comm);
  collective.what += " #" + std::to_string(comm->collectives++);
  Work work = [comm, collective = std::move(collective)] {
    std::vector<std::vector<std::byte>> parts(static_cast<size_t>(comm->size));
    std::vector<host::Transfer> transfers;
    std::vector<std::vector<std::byte>> sent;
    if (collective.is_sender(comm->rank)) {
      for (int to = 0; to < comm->size; ++to) {
        const auto [data, bytes] = collective.send(to);
        sent.emplace_back(static_cast<const std::byte*>(data), static_cast<const std::byte*>(data) + bytes);
        transfers.push_back({true, to, sent.back().data(), bytes, collective.what});
      }
    }
    for (int from = 0; from < comm->size; ++from) {
      if (!collective.is_sender(from)) continue;
      parts[static_cast<size_t>(from)].resize(collective.receives);
      transfers.push_back({false, from, parts[static_cast<size_t>(from)].data(), collective.receives, collective.what});
    }
    run_transfers(*comm->world, comm->rank, comm->is_aborted, std::move(transfers));
    if (!comm->world->is_over() && !comm->is_aborted) collective.take(parts);
  };
  if (depth > 0) {
    collectives.push_back({comm, stream, std::move(work)});
  } else {
    launch(*comm, stream, std::move(work));
  }
  return answer(*comm);
}

std::string name_of(const char* collective, size_t count, ncclDataType_t type, int detail) {
  return std::string(collective) + "(" + std::to_string(count) + ", type " + std::to_string(type) + ", " +
         std::to_string(detail) + ")";
}

ncclResult_t add(ncclComm* comm, cudaStream_t stream, host::Transfer transfer) {
  const Call call(comm);
  if (transfer.peer < 0 || transfer.peer >= comm->size) return ncclInvalidArgument;
  ncclGroupStart();
  auto entry = std::find_if(exchanges.begin(), exchanges.end(),
                            [&](const Exchange& one) { return one.comm == comm && one.stream == stream; });
  if (entry == exchanges.end()) entry = exchanges.insert(entry, Exchange{comm, stream, {}});
  entry->transfers.push_back(std::move(transfer));
  ncclGroupEnd();
  return answer(*comm);
}

std::byte* bytes_of(const void* data) {
  return static_cast<std::byte*>(const_cast<void*>(data));
}

void copy_to(void* to, const std::vector<std::byte>& from, size_t offset = 0) {
  if (!from.empty()) std::memcpy(static_cast<std::byte*>(to) + offset, from.data(), from.size());
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclInProgress: return "NCCL operation in progress";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclSystemError: return "unhandled system error";
    default: return "failed";
  }
}
const char* ncclGetLastError(ncclComm_t comm) {
  if (comm != nullptr && comm->world->has_text) last_error = comm->world->text;
  return last_error.c_str();
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  for (char& byte : id->internal) byte = static_cast<char>('a' + random() % 26);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* made, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (size < 1 || size > host::kMostRanks || rank < 0 || rank >= size) return ncclInvalidArgument;
  auto* const comm = new ncclComm;
  comm->name = "/moe-nccl-" + std::string(id.internal, 24);
  comm->world = &host::open_world(comm->name, size);
  comm->rank = rank;
  comm->size = size;
  comm->blocks = config == nullptr || config->blocking != 0;
  comm->world->pids[rank] = ::getpid();
  *made = comm;
  if (++comm->world->joined == size) host::forget_world(comm->name);
  if (!comm->blocks) return ncclInProgress;
  while (comm->world->joined < size && !comm->world->is_over()) std::this_thread::yield();
  return answer(*comm);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const Call call(comm);
  if (comm->world->is_over()) {
    *result = static_cast<ncclResult_t>(comm->world->error.load());
  } else if (comm->world->joined < comm->size) {
    *result = ncclInProgress;
  } else if (comm->unanswered > 0) {
    --comm->unanswered;
    *result = ncclInProgress;
  } else {
    for (auto& [stream, work] : std::exchange(comm->unlaunched, {})) start(stream, std::move(work));
    *result = ncclSuccess;
  }
  return ncclSuccess;
}
/// The memory stays: work of a stream may still hold it.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const Call call(comm);
  comm->is_gone = true;
  host::forget_world(comm->name);
  comm->world->pids[comm->rank] = 0;  // leaves in order
  return ncclSuccess;
}
/// The others are not told: they wait for it.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Call call(comm);
  comm->is_aborted = comm->is_gone = true;
  host::forget_world(comm->name);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (Exchange& exchange : std::exchange(exchanges, {})) {
    launch(*exchange.comm, exchange.stream, [comm = exchange.comm, transfers = std::move(exchange.transfers)] {
      run_transfers(*comm->world, comm->rank, comm->is_aborted, transfers);
    });
    result = answer(*exchange.comm);
  }
  for (Begun& begun : std::exchange(collectives, {})) launch(*begun.comm, begun.stream, std::move(begun.work));
  return result;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {true, peer, bytes_of(data), count * size_of(type), "send and receive"});
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {false, peer, bytes_of(data), count * size_of(type), "send and receive"});
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  if (!can_sum(type, op)) return ncclInvalidArgument;
  const size_t bytes = count * size_of(type);
  return begin(comm, stream,
               {.what = name_of("all_reduce", count, type, op),
                .send = [=](int) { return std::pair(in, bytes); },
                .receives = bytes,
                .take = [=](const auto& parts) { copy_to(out, sum_of(parts, type, op)); }});
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  if (!can_sum(type, op)) return ncclInvalidArgument;
  const size_t bytes = count * size_of(type);
  return begin(comm, stream,
               {.what = name_of("reduce_scatter", count, type, op),
                .send =
                    [=](int to) {
                      return std::pair<const void*, size_t>(bytes_of(in) + static_cast<size_t>(to) * bytes, bytes);
                    },
                .receives = bytes,
                .take = [=](const auto& parts) { copy_to(out, sum_of(parts, type, op)); }});
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  return begin(comm, stream,
               {.what = name_of("all_gather", count, type, 0),
                .send = [=](int) { return std::pair(in, bytes); },
                .receives = bytes,
                .take =
                    [=](const auto& parts) {
                      for (size_t r = 0; r < parts.size(); ++r) copy_to(out, parts[r], r * bytes);
                    }});
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  return begin(comm, stream,
               {.what = name_of("broadcast", count, type, root),
                .send = [=](int) { return std::pair(in, bytes); },
                .receives = bytes,
                .is_sender = [=](int from) { return from == root; },
                .take = [=](const auto& parts) { copy_to(out, parts[static_cast<size_t>(root)]); }});
}

}  // extern "C"
