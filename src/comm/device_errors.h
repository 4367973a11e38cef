#pragma once

#include <functional>

namespace moe {

/// Calls it; what LibTorch throws of a device becomes a HardwareError: the machine's fault, not the job's. Of too
/// little memory with what to do about it.
void with_device_errors(const std::function<void()>& work);

}  // namespace moe
