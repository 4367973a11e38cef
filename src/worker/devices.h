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

/// A rank's GPU, and the world of jobs that compute there.
struct OpenedDevices {
  std::unique_ptr<Communicator> world;
  std::string gpu;   ///< its name
  std::string nccl;  ///< version; empty where ranks exchange through the host
};

/// Loads CUDA on every rank, gives each its GPU (by its number on the node, modulo the GPUs that it sees) and says on
/// rank 0 what was found. `world` must outlive the result. Collective.
///
/// Throws   on every rank, what open_cuda (model/device.h) throws on one; InvalidArgument where two ranks come to the
///          same GPU and NCCL is to serve them, which it cannot, or the build has none.
OpenedDevices open_devices(const DeviceOptions& options, Communicator& world, std::chrono::milliseconds timeout);

}  // namespace moe
