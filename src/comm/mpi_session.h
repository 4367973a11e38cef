#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace moe {

/// The process's part in an `mpirun`. Started without mpirun it is a world of one and MPI is never touched. One per
/// process, made in main; the destructor finalizes MPI.
class MpiSession {
 public:
  /// Throws UsageError where another launcher than Open MPI's mpirun (srun, an MPICH mpiexec) started several
  /// processes: each would be a world of its own, and all would write the same files. HardwareError if this MPI may not
  /// be called from more than one thread.
  MpiSession(int& argc, char**& argv);
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession();

  int rank() const;
  int world_size() const;
  std::unique_ptr<Communicator> make_world(std::chrono::milliseconds timeout = kDefaultCollectiveTimeout) const;
  /// Ends every rank of the world now, with this exit code: for an error that the others do not know of.
  [[noreturn]] void abort(int exit_code) const;

 private:
  bool under_mpirun_;
};

/// This process's number among those of its world on the same node, from 0 on; 0 without mpirun. Collective.
int local_rank();

/// What several processes were started by that are no ranks of one world: "srun started 4 of (SLURM_STEP_NUM_TASKS=4)";
/// empty if none. Reads the environment.
std::string foreign_launcher();

/// Throws HardwareError unless the thread support that MPI_Init_thread gave is enough: collectives are called by the
/// main thread and, in a backward pass, by a thread of LibTorch's.
void require_thread_support(int provided);

}  // namespace moe
