#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace moe {

/// The collectives of `host` (MPI), and those of tensors on GPUs by NCCL, one GPU a rank: from memory to memory, on a
/// stream of their own. A result is waited for by the stream that needs it, not by the host; sums are made on the GPU
/// in the order of ranks, so that they have the bits of the host's. Tensors of the CPU, bytes and barriers go through
/// `host`, which also brings NCCL's id, and must outlive the result.
///
/// What is under way is watched (nccl_group.h): an error of NCCL's ends it with HardwareError, a collective that is not
/// done within the limit with Timeout, which every later call of this rank throws, with the operation, also those of
/// groups that were split and of the host. NCCL is begun with the first collective of a GPU's tensors; the limit holds
/// for that too. A work's own limit does not count: the group's does.
std::unique_ptr<Communicator> make_nccl(Communicator& host,
                                        std::chrono::milliseconds timeout = kDefaultCollectiveTimeout);

/// Loads NCCL; its version, "2.27.5". Throws InvalidArgument if this build knows none (its header was not there),
/// HardwareError if it cannot be loaded.
std::string load_nccl();

}  // namespace moe
