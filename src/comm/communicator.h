#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/operation_log.h"

namespace moe {

/// A collective that was begun and goes on beside what its rank does meanwhile. Several may be in flight, of one
/// communicator too; all ranks begin them in the same order, each may wait for them in its own. The tensors handed in
/// are kept until then, and must not be changed. Destroyed without a wait it does no harm: what this rank owes the
/// others still reaches them, and what they send is thrown away. It may outlive its communicator. Used by the thread
/// that uses the communicator.
class Work {
 public:
  virtual ~Work() = default;

  /// This rank's result, once. Throws what a collective throws: Timeout if it is not there within `limit` from now,
  /// HardwareError if a peer died or the fabric broke, Internal if the ranks disagree or it was waited for before, even
  /// in vain. After a Timeout the communicator is of no more use.
  virtual at::Tensor wait(std::chrono::milliseconds limit) = 0;
  /// The same within the time limit of the communicator.
  virtual at::Tensor wait() = 0;
};

/// A group of ranks that call the same collectives in the same order. Passed by reference, never global. Every call
/// names itself in `op` (with its layer where it has one) and ends within the communicator's time limit: Timeout then
/// says which operation, its sequence number and how long it waited. The limit is for ranks that compute alike: where
/// one may come from long work of its own, all meet in all_gather_bytes_after_work (agreement.h does). A rank's
/// communicator is used by one thread at a time.
///
/// Reductions sum in rank order, so a result's bits depend on the inputs and the size alone, and are the same on every
/// rank. Throws Timeout (exit 86), HardwareError (a peer or the fabric broke), Internal (ranks disagree on op or shape,
/// where that can be seen).
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place, elementwise over all ranks. Contiguous tensor of float, double or int64, same shape everywhere.
  virtual void all_reduce_sum(at::Tensor& tensor, std::string_view op) = 0;

  /// In place: every rank gets `root`'s contents. Contiguous tensor, any dtype.
  virtual void broadcast(at::Tensor& tensor, int root, std::string_view op) = 0;

  /// Begins the sum over all ranks of a [n, ...] tensor, of the same shape everywhere and of float, double or int64,
  /// of which rank r gets rows[r] rows, in rank order: [rows[rank()], ...]. `rows` is the same everywhere, sums to n
  /// and may hold zeros. Cost     bytes on the wire per rank: the rows of the others, once.
  virtual std::unique_ptr<Work> start_reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                         std::string_view op) = 0;
  at::Tensor reduce_scatter_sum(const at::Tensor& tensor, std::span<const int64_t> rows, std::string_view op) {
    return start_reduce_scatter_sum(tensor, rows, op)->wait();
  }

  /// Begins to collect [rows[r], ...] of each rank r -> [sum of rows, ...] in rank order. `rows` is the same everywhere
  /// and may hold zeros.
  virtual std::unique_ptr<Work> start_all_gather(const at::Tensor& tensor, std::span<const int64_t> rows,
                                                 std::string_view op) = 0;
  /// [n, ...] on each rank, where the others need not know n -> [sum n, ...] in rank order.
  virtual at::Tensor all_gather(const at::Tensor& tensor, std::string_view op) = 0;

  /// Begins to send the first send_rows[0] rows of `rows` to rank 0, the next send_rows[1] to rank 1, ... and returns
  /// what arrived, in rank order, recv_rows[r] rows from rank r (they must equal what rank r sends here). Counts may be
  /// 0; every rank calls. Cost     bytes on the wire per rank: the rows that change ranks, once.
  virtual std::unique_ptr<Work> start_all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows,
                                                 std::span<const int64_t> recv_rows, std::string_view op) = 0;
  at::Tensor all_to_all(const at::Tensor& rows, std::span<const int64_t> send_rows, std::span<const int64_t> recv_rows,
                        std::string_view op) {
    return start_all_to_all(rows, send_rows, recv_rows, op)->wait();
  }

  /// Each rank's bytes, in rank order.
  virtual std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view op) = 0;

  /// The same, for ranks that come from local work (hashing, reading, writing) and so at times that may be far apart:
  /// waits for them up to kLocalWorkLimit, however short the time limit is. That a rank died is noticed elsewhere:
  /// mpirun ends its peers, and the leader of a gang hears its ranks without MPI (worker/gang_control.h).
  virtual std::vector<std::string> all_gather_bytes_after_work(std::string_view bytes, std::string_view op) = 0;

  virtual void barrier(std::string_view op) = 0;

  /// The sub-group of the ranks that gave the same `color`, ordered by their rank here. Collective over this
  /// communicator.
  virtual std::unique_ptr<Communicator> split(int color, std::string_view op) = 0;

  /// What this rank's collectives do, those of sub-groups included; may be read from other threads.
  virtual std::shared_ptr<OperationLog> operations() const = 0;

  /// The root's bytes, on every rank.
  std::string broadcast_bytes(std::string_view bytes, int root, std::string_view op);
  /// `each` int64 per destination -> as many per source.
  std::vector<int64_t> exchange_counts(std::span<const int64_t> counts, std::string_view op, int64_t each);
};

/// Time limit of a collective unless set otherwise (`moe-worker run | serve --collective-timeout`).
inline constexpr std::chrono::seconds kDefaultCollectiveTimeout{600};
/// Nothing that one rank does alone takes this long.
inline constexpr std::chrono::hours kLocalWorkLimit{24};

/// A group of one: every collective is a copy. For programs started without mpirun.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace moe
