#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace moe {

/// The process's part in an `mpirun`. Started without mpirun it is a world of one and MPI is never touched. One per
/// process, made in main; the destructor finalizes MPI.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession();

  int world_size() const;
  std::unique_ptr<Communicator> make_world(std::chrono::milliseconds timeout = kDefaultCollectiveTimeout) const;
  /// Ends every rank of the world now, with this exit code: for an error that the others do not know of.
  [[noreturn]] void abort(int exit_code) const;

 private:
  bool under_mpirun_;
};

}  // namespace moe
