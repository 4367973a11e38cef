#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace moe {

/// The ranks of MPI_COMM_WORLD, on CPU tensors. Only non-blocking calls, polled until their deadline. MPI must have been
/// initialised (MpiSession).
std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds timeout);

}  // namespace moe
