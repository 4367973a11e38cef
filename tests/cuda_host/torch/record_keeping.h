#pragma once

#include <string>

/// Written by the simulated Torch device, read through record.h.
namespace moe::cuda_host {

void count_operator(const std::string& name);
void count_host_wait(const std::string& name);

}  // namespace moe::cuda_host
