#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace moe {

/// The collectives of `host` (MPI), and those of tensors on GPUs by NCCL, one GPU a rank: from memory to memory, on a
/// stream of their own, while the host goes on. A collective is waited for by the stream that needs its result, not by
/// the host; sums are made on the GPU in the order of ranks, so that they have the bits of the host's. Tensors of the
/// CPU, bytes and barriers go through `host`, which also brings NCCL's id, and must outlive the result.
///
/// A watch looks after what is under way: a peer that died or an error of NCCL's ends the group's communicator with
/// HardwareError, a collective that is not done within the host's limit with Timeout, which every later call of this
/// rank throws, with the operation. NCCL is begun with the first collective of a GPU's tensors; the limit holds for
/// that too. Throws HardwareError where NCCL is missing; Internal if the build has none.
std::unique_ptr<Communicator> make_nccl(Communicator& host,
                                        std::chrono::milliseconds timeout = kDefaultCollectiveTimeout);

/// Whether this build knows NCCL (its header was there).
bool has_nccl();

}  // namespace moe
