#pragma once

#include <cstdint>
#include <map>
#include <string>

/// What a program asked of the simulated Torch device. Thread-safe.
namespace moe::cuda_host {

/// How often each operator was run on the CPU, by its name with its overload ("aten::sum.dim_IntList"): what needs a
/// kernel in libtorch_cuda on a GPU.
std::map<std::string, int64_t> operators_run();

/// How often the host waited for the device: copies that are not asynchronous, item(), operators whose shapes depend
/// on values, waits for streams and events.
int64_t host_waits();

/// Of the same, the last one by name; empty: none.
std::string last_host_wait();

}  // namespace moe::cuda_host
