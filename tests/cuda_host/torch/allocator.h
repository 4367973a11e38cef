#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

#include <cstdint>

/// Torch's memory on the simulated device, with the promises of its CUDACachingAllocator: a block belongs to the stream
/// that was current when it was taken; given back, it serves later work of that stream at once and nobody else; work of
/// another stream is safe only where the tensor said so (record_stream). What is given back is overwritten with 0xff in
/// the order of its stream, so that whoever still reads it, or reads it on a stream that does not wait, gets NaN.
/// Thread-safe.
namespace moe::cuda_host {

c10::Allocator& torch_allocator();

/// `data` of a block: it is used on this stream too, and is not given out again before what is queued there now is
/// done.
void use_on_stream(const void* data, c10::Stream stream);

/// Pieces of memory taken from the device so far: what a step must not add to once warm, since cudaMalloc waits for
/// the device.
int64_t device_allocations();

}  // namespace moe::cuda_host
