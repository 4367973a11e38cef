#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace moe {

/// How many values of a tensor are NaN or infinite; 0 for one of no weight type. On the CPU. On the bits, at the speed
/// of memory and without a copy where it is contiguous: LibTorch's isfinite makes several tensors on the way.
int64_t count_non_finite(const at::Tensor& values);

}  // namespace moe
