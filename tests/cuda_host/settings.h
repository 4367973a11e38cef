#pragma once

#include <optional>

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

/// MOE_CUDA_HOST_DEVICES: how many devices there are; default 1, may be 0.
int device_count();

}  // namespace moe::cuda_host
