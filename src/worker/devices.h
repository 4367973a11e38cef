#pragma once

#include <string>

#include "comm/communicator.h"

namespace moe {

/// Loads CUDA on every rank and gives each its GPU: by its number on the node, modulo the node's GPUs. Collective.
/// Throws, on every rank, what open_cuda (model/device.h) throws on one.
void open_cuda_on_ranks(const std::string& cuda_library, Communicator& world);

}  // namespace moe
