#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace moe {

/// MPI counts are ints: larger buffers travel as several messages.
inline constexpr int64_t kMaxMpiMessageBytes = int64_t{1} << 30;

/// The ranks of MPI_COMM_WORLD, on CPU tensors. Only non-blocking calls, polled until their deadline. MPI must have
/// been initialised (MpiSession). After a Timeout or an error the process must end (MpiSession::abort): MPI may still
/// own buffers.
std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds timeout,
                                             int64_t max_message_bytes = kMaxMpiMessageBytes);

}  // namespace moe
