#pragma once

#include <memory>

#include "comm/communicator.h"

namespace moe {

/// The collectives of `host`, which takes tensors of the CPU, for those of GPUs too: what is sent is copied to the host
/// first, what arrives to the sender's device. Tensors of the CPU pass. `host` must outlive the result. For GPUs
/// without NCCL, and what NCCL is compared with: the sums, and their order, are the host's.
/// Cost     two copies over the bus, and a wait for the device's stream, besides.
std::unique_ptr<Communicator> make_staged(Communicator& host);

}  // namespace moe
