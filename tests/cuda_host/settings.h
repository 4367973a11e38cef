#pragma once

#include <cstddef>
#include <optional>
#include <vector>

/// What the environment says about the simulated machine. Read at every use, so that a test may change it; a value that
/// means nothing ends the process with exit code 64 and a message, since a run in an order nobody asked for proves
/// nothing.
namespace moe::cuda_host {

/// In which order the threads of a block take their turns.
struct ThreadOrder {
  bool is_reversed = false;
  std::optional<unsigned> seed;  ///< of a random order
};

/// MOE_CUDA_HOST_ORDER: forward (default), reverse, or a number.
ThreadOrder thread_order();

/// The devices that the process sees, as the machine numbers them: of MOE_CUDA_HOST_DEVICES (how many there are;
/// default 1, may be 0) those that CUDA_VISIBLE_DEVICES lists, up to the first that is not there, or all.
std::vector<int> visible_devices();

/// MOE_CUDA_HOST_MEMORY: bytes of device memory that a process may hold, given in mebibytes; default: no limit.
std::optional<size_t> memory_limit();

}  // namespace moe::cuda_host
