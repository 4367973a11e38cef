#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

/// Blocks of CUDA threads on one OS thread: a fiber each, blocks one after another. A fiber runs until it ends or meets
/// a barrier, and a warp until all its threads did that or wait for the block; then the next has its turn, in the order
/// of settings.h, so that a missing barrier shows as other results.
/// Several OS threads may run blocks at once, each its own.
namespace moe::cuda_host {

/// What loses a device to its process: the error that every later call reports, and what happened.
struct Fault : std::runtime_error {
  Fault(cudaError_t error, const std::string& what) : std::runtime_error(what), error(error) {}
  cudaError_t error;
};

/// What a multiprocessor gives one block at most, in bytes (compute capability 9.0).
constexpr size_t kMaxSharedBytes = size_t{227} << 10;

/// Runs thread() in every thread of every block. Throws Fault where a thread faults, or waits for what cannot come.
void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& thread);

/// Ends the calling CUDA thread, and the grid, with this fault. Outside a kernel: prints it and aborts.
[[noreturn]] void fault(cudaError_t error, const std::string& what);

/// For CUDA threads; the headers of the device language are built on these.

const uint3& thread_index();
const uint3& block_index();
const dim3& block_size();
const dim3& grid_size();

/// Aligned to 128 bytes; what lies behind it (to the next 128) faults. Filled with 0xff when a block begins.
void* dynamic_shared_memory();

/// Position in the warp, 0 to 31.
unsigned lane();

/// What a block's barrier finds about the predicates of the threads that met there.
struct Votes {
  int threads = 0, for_it = 0;
};

/// Meets all threads of the block that have not ended.
Votes block_barrier(const char* name, bool predicate = false);

constexpr size_t kMaxExchangeBytes = 16;

/// Meets the lanes of `mask` that have not ended, each with a value; then received(lane, ...) has theirs until the next
/// meeting of the calling thread. A lane outside its own mask is a fault.
void warp_exchange(const char* name, unsigned mask, const void* value, size_t bytes);

/// False where that lane took no part in the meeting: it is outside the mask, or has ended.
bool received(unsigned from, void* value, size_t bytes);

}  // namespace moe::cuda_host
