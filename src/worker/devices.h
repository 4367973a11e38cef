#pragma once

#include <CLI/App.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace moe {

/// How ranks come to their GPUs and exchange between them.
struct DeviceOptions {
  std::string cuda_library;          ///< empty: beside the program
  std::string collectives = "nccl";  ///< of GPUs' tensors: "nccl", or "staged" through host memory
};

/// --cuda-library and --collectives.
std::shared_ptr<DeviceOptions> add_device_options(CLI::App& command);

/// Loads CUDA on every rank, gives each its GPU (by its number on the node, modulo the node's GPUs where ranks exchange
/// through the host) and returns the world of jobs that compute there. `world` must outlive it. Collective.
///
/// Throws   on every rank, what open_cuda (model/device.h) throws on one; InvalidArgument where a node has more ranks
///          than GPUs and NCCL is to serve them, which it cannot, or the build has none.
std::unique_ptr<Communicator> open_devices(const DeviceOptions& options, Communicator& world,
                                           std::chrono::milliseconds timeout);

}  // namespace moe
